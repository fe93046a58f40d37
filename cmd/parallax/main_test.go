package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/config"
)

// leakChecked looks for goroutines after the tests; testscript.Main ends the process, so goleak.VerifyTestMain cannot.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"parallax": main,
		// exitcode N COMMAND…: the command must end with exactly that code; `!` of testscript takes any.
		"exitcode": exitCode,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Setup: func(env *testscript.Env) error {
		env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command, otherwise
		return nil
	}})
}

// TestREADMEListsEveryFlag: an option that is not documented does not exist.
func TestREADMEListsEveryFlag(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	missing := false
	for _, row := range optionRows() {
		if !strings.Contains(string(readme), row+"\n") {
			t.Errorf("README.md lacks the line\n%s", row)
			missing = true
		}
	}
	if missing {
		t.Logf("the whole table:\n%s", strings.Join(optionRows(), "\n"))
	}
}

// optionRows is the table of options in Markdown.
func optionRows() []string {
	rows := []string{"| flag | default | SIGHUP | what it sets |", "|---|---|---|---|"}
	for _, o := range config.Options() {
		name, def, reload := "`--"+o.Flag+"`", "none", ""
		if o.Flag == "" {
			name = "`" + o.Key + "` (file only)"
		}
		if o.Default != "" {
			def = "`" + o.Default + "`"
		}
		if o.Reloadable {
			reload = "yes"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s |", name, def, reload, o.Usage))
	}
	return rows
}
