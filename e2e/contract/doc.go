// Package contract holds the tests of what clients rely on and must not notice:
// one suite that is run through several plumbings. What a client sees directly at
// a member is the measure of what it sees through Parallax.
//
// It has no code but tests.
package contract
