// Package docs holds what Parallax has to say when nobody can look it up: the runbook is part of the binary.
package docs

import _ "embed" // for go:embed

// Runbook is docs/runbook.md.
//
//go:embed runbook.md
var Runbook string
