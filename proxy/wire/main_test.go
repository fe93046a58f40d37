package wire

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv("WIRE_RELAY"); kind != "" {
		relayProcess(kind)
		return
	}
	goleak.VerifyTestMain(m)
}
