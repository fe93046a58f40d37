// Package e2e tests Parallax as it is shipped, between real clients and real etcd members.
package e2e

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
