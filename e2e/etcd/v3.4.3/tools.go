//go:build tools
// +build tools

// Package tools keeps in go.mod what is built: there is no tool directive before Go 1.24.
package tools

import _ "go.etcd.io/etcd"
