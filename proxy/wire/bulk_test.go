package wire

import (
	"bytes"
	"testing"
)

// A connection that brings much moves more at a time, and only so many do: the rest go on with an ordinary buffer.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestBulk(t *testing.T) {
	b := count()
	for lent, most := range map[int32]int{maxBulk - 1: BulkSize, maxBulk: len(buffer{})} {
		b.lent.Store(lent)
		ours, peer := kinds[0].ends(t, &b.Buffers)
		sent := random(16 << 20)
		go func() { _ = send(peer, sent) }()
		var got []byte
		largest, first := 0, 0
		for len(got) < len(sent) {
			p, err := ours.Next()
			if err != nil {
				t.Fatal(err)
			}
			if first == 0 {
				first = len(p)
			}
			largest = max(largest, len(p))
			got = append(got, p...)
			ours.Release()
		}
		if !bytes.Equal(got, sent) || first > BufferSize || largest > most || most == BulkSize && largest <= len(buffer{}) {
			t.Errorf("with %d lent: %d bytes of %d in pieces of up to %d, the first %d", lent, len(got), len(sent), largest, first)
		}
		if now := b.lent.Load(); now != lent {
			t.Errorf("%d are lent, %d were before", now, lent)
		}
	}
}
