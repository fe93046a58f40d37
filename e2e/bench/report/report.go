// Package report turns what was measured into tables, and holds it against the bars.
package report

import (
	"encoding/json"
	"os"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
)

// Modes are measured one after the other.
const (
	Plain = "plain"
	TLS   = "tls"
)

// IdleWorkload is the name of the one that is no workload: connections that do nothing.
const IdleWorkload = "idle"

// Sample is one measurement of one row under one workload.
type Sample struct {
	Mode     string `json:"mode"`
	Workload string `json:"workload"`
	Row      string `json:"row"`
	Round    int    `json:"round"`
	Position int    `json:"position"` // in the order of its round

	Requests int     `json:"requests,omitempty"`
	Seconds  float64 `json:"seconds,omitempty"`

	// ProxySeconds and MemberSeconds are CPU time.
	ProxySeconds  float64 `json:"proxy_cpu_seconds,omitempty"`
	MemberSeconds float64 `json:"member_cpu_seconds,omitempty"`

	// P50 and P99 in microseconds.
	P50 float64 `json:"p50_us,omitempty"`
	P99 float64 `json:"p99_us,omitempty"`

	// PeakRSS in bytes since this measurement began.
	PeakRSS int64 `json:"peak_rss_bytes,omitempty"`

	// Of idle connections: how many, and the resident memory without and with them.
	Connections int   `json:"connections,omitempty"`
	RSSBefore   int64 `json:"rss_before_bytes,omitempty"`
	RSSAfter    int64 `json:"rss_after_bytes,omitempty"`

	// Error says why there is no figure.
	Error string `json:"error,omitempty"`
}

// Row and Workload are what the tables need to know of them.
type Row struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Three bool   `json:"three,omitempty"` // before three members
}

// Workload of a table.
type Workload struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Paced bool   `json:"paced"`
}

// Report is one whole run.
type Report struct {
	Started  time.Time         `json:"started"`
	Seconds  float64           `json:"seconds"`
	Machine  osstat.Machine    `json:"machine"`
	Versions map[string]string `json:"versions"`

	// Notes say how it was measured.
	Notes []string `json:"notes"`

	// Skipped rows, and why.
	Skipped []string `json:"skipped,omitempty"`

	Modes     []string   `json:"modes"`
	Rows      []Row      `json:"rows"`
	Workloads []Workload `json:"workloads"`
	Samples   []Sample   `json:"samples"`
}

// WriteJSON writes everything.
func (r *Report) WriteJSON(path string) error {
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}
