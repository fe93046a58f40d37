package parallax

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// fakeEnv makes this test binary a parallax with a fault, so that the wrapper
// can be tested without, and before, the real one.
const fakeEnv = "FAKE_PARALLAX"

func TestMain(m *testing.M) {
	if fault, is := os.LookupEnv(fakeEnv); is {
		os.Exit(fake(fault))
	}
	goleak.VerifyTestMain(m)
}

func fake(fault string) (exitCode int) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	admin := flags.String("listen-admin-urls", "", "")
	flags.String("listen-client-urls", "", "")
	flags.String("endpoints", "", "")
	_ = flags.Parse(os.Args[2:])
	if fault == "start" {
		fmt.Fprintln(os.Stderr, "no such flag")
		return 2
	}
	var asked atomic.Int32
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "no member yet", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "# TYPE a counter\na{x=\"1\",y=\"a b\"} 2\na{x=\"2\",y=\"a b\"} 3e2\nb NaN\n\nab 1\n")
	})
	address, _ := url.Parse(*admin)
	go func() { fmt.Fprintln(os.Stderr, http.ListenAndServe(address.Host, nil)) }()
	hup, term := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Print(`{"key":{"text":"/a"},"revision":9007199254740993}` + "\n" + `{"key":`)
	for {
		select {
		case <-hup:
			fmt.Print(`{"text":"/b"}}` + "\n")
		case <-term:
			fmt.Println(`{"text":"/b"}}`)
			switch fault {
			case "exit":
				return 1
			case "race":
				fmt.Fprintln(os.Stderr, "WARNING: DATA RACE")
			case "stdout":
				fmt.Println("hello")
			}
			return 0
		}
	}
}

func startFake(t *testing.T, fault string) (*Process, error) {
	t.Helper()
	return start(t.Context(), os.Args[0], Options{Env: []string{fakeEnv + "=" + fault}})
}

func TestRecordsAndMetrics(t *testing.T) {
	p, err := startFake(t, "")
	if err != nil {
		t.Fatal(err)
	}
	keyIs := func(key string) func(Record) bool {
		return func(r Record) bool { return r.Text("key", "text") == key }
	}
	a, err := p.WaitRecord(t.Context(), keyIs("/a"))
	if err != nil || a.Text("revision") != "9007199254740993" || a.Text("none", "none") != "" {
		t.Errorf("record is %s, %v", a.Raw, err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r, err := p.WaitRecord(soon, keyIs("/b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("half a line is a record: %s, %v", r.Raw, err)
	}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitRecord(t.Context(), keyIs("/b")); err != nil {
		t.Error(err)
	}
	samples, err := p.Metrics(t.Context())
	if err != nil || len(samples) != 4 || samples["ab"] != 1 {
		t.Errorf("metrics are %v, %v", samples, err)
	}
	for want, got := range map[float64]float64{
		302: Sum(samples, "a"), 2: Sum(samples, "a", `y="a b"`, `x="1"`), 0: Sum(samples, "a", `x="3"`),
	} {
		if got != want {
			t.Errorf("sum is %v, want %v", got, want)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitRecord(t.Context(), keyIs("/c")); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("wait for a record of a dead process: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("close after kill: %v", err)
	}
}

func TestKeptRecordsAreReadFromAFile(t *testing.T) {
	dir := t.TempDir()
	p, err := start(t.Context(), os.Args[0], Options{Env: []string{fakeEnv + "="}, KeepIn: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitRecord(t.Context(), func(r Record) bool { return r.Text("key", "text") == "/a" }); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Records()); n != 2 { // the second is written at the end
		t.Errorf("%d records, want 2", n)
	}
	content, err := os.ReadFile(filepath.Join(dir, RecordsFile))
	if err != nil || strings.Count(string(content), "\n") != 2 {
		t.Errorf("the file has %q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(dir, LogFile)); err != nil {
		t.Error(err)
	}
}

func TestCloseTellsWhatWasWrong(t *testing.T) {
	for fault, want := range map[string]string{
		"": "", "exit": "exit status 1", "race": "data race", "stdout": "hello",
	} {
		t.Run(fault, func(t *testing.T) {
			p, err := startFake(t, fault)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Close()
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("close: %v, want %q", err, want)
			}
		})
	}
	if _, err := startFake(t, "start"); err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("failed start: %v, want its log", err)
	}
}
