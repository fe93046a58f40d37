package certs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// DefaultInterval is how often files are looked at. A look costs some microseconds when nothing has changed.
const DefaultInterval = 5 * time.Second

// Reloader is a Server or a Client.
type Reloader interface {
	Reload() (changed bool, err error)
	Expiries() []Expiry
}

// Watched is what is looked at, and the role that it has in logs and metrics, such as listener or member.
type Watched struct {
	Role  string
	Files Reloader
}

// Watcher keeps certificates fresh. The fields are set before Run and not changed after it.
type Watcher struct {
	// Watched are read again.
	Watched []Watched

	// Interval between two looks. If zero, DefaultInterval. It polls rather than being told by inotify: that is
	// lost when a directory is replaced, does not reach through every network file system, and five seconds are
	// nothing in the life of a certificate.
	Interval time.Duration

	// Logger hears of changes of state. If nil, nobody does.
	Logger *slog.Logger

	// Metrics counts. If nil, nobody sees the counts.
	Metrics *Metrics

	once  sync.Once
	asked chan struct{} // holds one request to look at once
}

func (w *Watcher) init() {
	w.once.Do(func() {
		w.asked = make(chan struct{}, 1)
		if w.Interval <= 0 {
			w.Interval = DefaultInterval
		}
		if w.Logger == nil {
			w.Logger = slog.New(slog.DiscardHandler)
		}
		if w.Metrics == nil {
			w.Metrics = NewMetrics(nil)
		}
	})
}

// Reload makes Run look at once, and say what it found also when that is nothing new. It does not wait: a file
// system that hangs must not hang the one who handles signals, too.
func (w *Watcher) Reload() {
	w.init()
	select {
	case w.asked <- struct{}{}:
	default: // Run is about to look
	}
}

// Run looks at the files until ctx ends. If it ends while a file system hangs, Run returns when that has answered.
func (w *Watcher) Run(ctx context.Context) {
	w.init()
	all := make([]*watch, 0, len(w.Watched))
	for _, one := range w.Watched {
		w.Metrics.expect(one.Role)
		state := &watch{Watched: one, log: w.Logger.With("role", one.Role), metrics: w.Metrics}
		state.taken()
		all = append(all, state)
	}
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-w.asked:
			asked = true
		case <-tick.C:
		}
		for _, one := range all {
			one.look(asked)
		}
	}
}

// watch is what Run remembers of one Watched.
type watch struct {
	Watched
	log     *slog.Logger
	metrics *Metrics

	failing   bool   // at the last look
	complaint string // the one that was told last; empty when all is well
	warnings  map[Expiry]warning
}

// look reads the files again. A certificate and its key are replaced one after the other, and not all in a moment:
// so it complains when it has failed twice in a row, unless somebody asked and waits to hear. It complains once for
// each cause, not at each look.
func (w *watch) look(asked bool) {
	changed, err := w.Files.Reload()
	if err != nil {
		told := err.Error() == w.complaint
		if (asked || w.failing) && !told {
			w.metrics.reloads.WithLabelValues(w.Role, resultFailed).Inc()
		}
		if asked || w.failing && !told {
			w.log.Error("new certificate files cannot be used, the old ones stay in use", "error", err)
			w.complaint = err.Error()
		}
		w.failing = true
		w.warn()
		return
	}
	switch {
	case changed:
		w.metrics.reloads.WithLabelValues(w.Role, resultOK).Inc()
		w.log.Info("new certificate files are in use")
		w.taken()
	case w.complaint != "":
		w.log.Info("the certificate files can be used again, they are those in use")
	case asked:
		w.log.Info("the certificate files have not changed")
	}
	w.failing, w.complaint = false, ""
	w.warn()
}

// taken is called when other certificates are in use than before.
func (w *watch) taken() {
	w.metrics.expires(w.Role, w.Files.Expiries())
	w.warnings = make(map[Expiry]warning)
	w.warn()
}

// warning is what was said last of a certificate, and when.
type warning struct {
	text string
	at   time.Time
}

// warn speaks of certificates whose time is running out: when that begins, and once a day from then on. Nothing
// else happens to them here: it is for the other side to refuse them.
func (w *watch) warn() {
	now := time.Now()
	for _, e := range w.Files.Expiries() {
		text, last := e.complaint(now), w.warnings[e]
		if text == "" || text == last.text && now.Sub(last.at) < 24*time.Hour {
			continue
		}
		w.warnings[e] = warning{text, now}
		w.log.Warn(text, "file", e.File, "not_before", e.NotBefore, "not_after", e.NotAfter)
	}
}

// complaint says what is wrong with the time of a certificate, if anything.
func (e Expiry) complaint(now time.Time) string {
	what := "the certificate"
	if e.CA {
		what = "a CA certificate"
	}
	// Whoever renews does so a third of the life before the end (cert-manager), or by hand, once a year: half of
	// that third, or a month, leaves time to act and gives no alarm about what is about to happen by itself.
	soon := min(e.NotAfter.Sub(e.NotBefore)/6, 30*24*time.Hour)
	switch {
	case now.After(e.NotAfter):
		return what + " has expired: renew it, whoever verifies it refuses it"
	case now.Before(e.NotBefore):
		return what + " is not valid yet: check the clock of this machine"
	case e.NotAfter.Sub(now) < soon:
		return what + " expires soon: renew it"
	}
	return ""
}
