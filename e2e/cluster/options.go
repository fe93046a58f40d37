package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// Options describe a cluster. The zero value is three members of etcd 3.6.
type Options struct {
	// Version of all members, e.g. "3.5.35". Default binary.Etcd36.
	Version string

	// Versions, one per member, for a mixed cluster; instead of Version and Size.
	Versions []string

	// Size is the number of members. Default 3.
	Size int

	// ExtraFlags are given to every member, after our own: the last one wins.
	ExtraFlags []string

	// Env is added to every member's environment. ETCD_* of our own
	// environment is not passed on.
	Env []string

	// Dir is where data and logs are kept; Close leaves it. Default a
	// temporary folder that Close removes.
	Dir string

	// Outlive leaves the members running when this process ends without Close.
	Outlive bool

	// ElectionTimeout of the members; the heartbeat is a tenth of it. Default
	// 500 ms, half of etcd's, so that a lost leader costs a test little.
	ElectionTimeout time.Duration

	// TLS of the members' client URLs, and of all clients of this package. Default Plain.
	TLS TLS

	// AlsoFor are addresses for which the members' certificates are good, besides
	// their own: of a proxy that passes TLS on.
	AlsoFor []string

	// Fsync makes members sync their files. Off by default (--unsafe-no-fsync,
	// which etcd 3.4 does not have): what a SIGKILLed process has written is
	// safe with the kernel, only a crash of the machine would lose it.
	Fsync bool

	// Progress of builds, when a version is not there yet.
	Progress func(binary.Progress)
}

// withDefaults returns the options with everything set, Versions included.
func (o Options) withDefaults() (Options, error) {
	if o.Versions != nil && (o.Version != "" || o.Size != 0 && o.Size != len(o.Versions)) {
		return o, fmt.Errorf("cluster options: Versions %v exclude Version %q and Size %d", o.Versions, o.Version, o.Size)
	}
	if o.Versions == nil {
		if o.Version == "" {
			o.Version = binary.Etcd36
		}
		if o.Size == 0 {
			o.Size = 3
		}
		if o.Size < 1 || o.Size > maxMembers {
			return o, fmt.Errorf("cluster options: Size is %d, want 1 to %d", o.Size, maxMembers)
		}
		o.Versions = slices.Repeat([]string{o.Version}, o.Size)
	}
	if o.ElectionTimeout == 0 {
		o.ElectionTimeout = 500 * time.Millisecond
	}
	return o, nil
}

func (o Options) flags(version string) []string {
	election := o.ElectionTimeout.Milliseconds()
	flags := []string{fmt.Sprintf("--heartbeat-interval=%d", election/10), fmt.Sprintf("--election-timeout=%d", election)}
	if !o.Fsync && version != binary.Etcd34 {
		flags = append(flags, "--unsafe-no-fsync")
	}
	return append(flags, o.ExtraFlags...)
}
