package sweep

import "math/bits"

// alphabet is the set of bytes that were seen at one position of the keys.
type alphabet [4]uint64

// everyByte is what is assumed where nothing was learned.
const everyByte = 256

func (a *alphabet) add(b byte) { a[b>>6] |= 1 << (b & 63) }

// size is how many bytes were seen.
func (a *alphabet) size() int {
	n := 0
	for _, word := range a {
		n += bits.OnesCount64(word)
	}
	return n
}

// rank of a byte is how many of those that were seen are not above it, less one:
// the next that was seen has the next rank.
func (a *alphabet) rank(b byte) int {
	n := -1
	for _, word := range a[:b>>6] {
		n += bits.OnesCount64(word)
	}
	return n + bits.OnesCount64(a[b>>6]<<(63-b&63))
}

// nth is the byte of a rank.
func (a *alphabet) nth(rank int) byte {
	for i, word := range a {
		if here := bits.OnesCount64(word); rank >= here {
			rank -= here
			continue
		}
		for ; rank > 0; rank-- {
			word &= word - 1
		}
		return byte(i<<6 + bits.TrailingZeros64(word))
	}
	return 0
}
