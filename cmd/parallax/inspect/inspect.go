// Package inspect holds the commands that look at a cluster by themselves, without a proxy: check, diagnose, runbook.
package inspect

import (
	"fmt"
	"strings"
)

// Exit codes of these commands, beside 0: nothing was found.
const (
	exitDivergent    = 1
	exitInconclusive = 3
)

// UsageError is a mistake on the command line.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e UsageError) Unwrap() error { return e.Err }

// Usage is one, in words.
func Usage(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ExitError ends the process with a code that says what was found. Err is what stderr is told, nil is nothing: the
// command has printed it.
type ExitError struct {
	Code int
	Err  error
}

func (e ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns what stderr is told.
func (e ExitError) Unwrap() error { return e.Err }

// Quoted does not repeat what may be a URL with a password.
func Quoted(s string) string {
	if strings.Contains(s, "@") {
		return "(not shown: it may hold a password)"
	}
	return fmt.Sprintf("%q", s)
}
