package judge

import (
	"bytes"
	"strings"
)

// Fields is the set of a key's fields that differ, or that a claim speaks of.
type Fields uint8

// The fields of a key. Present stands alone: where a key is missing, there is
// nothing else to compare.
const (
	Present Fields = 1 << iota
	Value
	CreateRevision
	ModRevision
	Version
	Lease

	everyField = Present | Value | CreateRevision | ModRevision | Version | Lease
)

var fieldNames = [...]string{"present", "value", "create_revision", "mod_revision", "version", "lease"}

// Names in the order of the constants.
func (f Fields) Names() []string {
	var names []string
	for i, name := range fieldNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

func (f Fields) String() string { return strings.Join(f.Names(), ",") }

// differing returns the fields, among those of mask, on which a and b differ;
// nil is an absent key.
func differing(a, b *KV, mask Fields) Fields {
	if (a == nil) != (b == nil) {
		return Present & mask
	}
	if a == nil {
		return 0
	}
	var f Fields
	if !bytes.Equal(a.Value, b.Value) {
		f |= Value
	}
	if a.CreateRevision != b.CreateRevision {
		f |= CreateRevision
	}
	if a.ModRevision != b.ModRevision {
		f |= ModRevision
	}
	if a.Version != b.Version {
		f |= Version
	}
	if a.Lease != b.Lease {
		f |= Lease
	}
	return f & mask
}
