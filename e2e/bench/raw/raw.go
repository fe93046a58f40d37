// Package raw is a gRPC codec that leaves messages as they are.
package raw

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// Codec passes a mem.BufferSlice on, and fills a *mem.BufferSlice, which the
// receiver frees.
type Codec struct{}

// Marshal returns the same bytes, with a reference for gRPC.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("marshal %T, want raw bytes", v)
	}
	message.Ref()
	return message, nil
}

// Unmarshal returns the same bytes, with a reference for the receiver.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*mem.BufferSlice)
	if !ok {
		return fmt.Errorf("unmarshal into %T, want raw bytes", v)
	}
	data.Ref()
	*message = data
	return nil
}

// Name is that of the encoding which the bytes have.
func (Codec) Name() string { return "proto" }
