// Command parallax is a consistency proxy for etcd: see `parallax help serve`.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"
)

func main() {
	// gRPC would write to stderr past the logger, and could block on it.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// version is what the Go toolchain recorded in the binary; there is no -ldflags to forget.
type version struct {
	Parallax string `json:"parallax"`           // module version, "(devel)" for a build of a working tree without tags
	Revision string `json:"revision,omitempty"` // VCS revision
	Modified bool   `json:"modified,omitempty"` // built from a working tree with changes
	Go       string `json:"go"`
}

func readVersion() version {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version{Parallax: "unknown", Go: "unknown"}
	}
	v := version{Parallax: info.Main.Version, Go: info.GoVersion}
	if v.Parallax == "" {
		v.Parallax = "(devel)" // test binaries
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (v version) String() string {
	s := "parallax " + v.Parallax
	if v.Revision != "" {
		s += " revision " + v.Revision
	}
	if v.Modified {
		s += " (modified)"
	}
	return s + " " + v.Go
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of Parallax, of its source and of Go",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), readVersion())
			return err
		},
	}
}
