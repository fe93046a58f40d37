// Package parallax has no code: this test holds the rules of the house for the
// packages below it (docs/decisions.md, "The house").
package parallax

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/etcd-parallax/parallax"

// arrows are what a package may import of ours; nothing else.
var arrows = map[string][]string{
	"cmd/parallax": {
		"cmd/parallax/inspect", "config", "proxy", "proxy/certs", "proxy/tap", "proxy/transport",
		"shadow", "shadow/ask", "shadow/divergence", "shadow/follow", "shadow/judge", "shadow/member", "shadow/probe", "shadow/sweep",
	},
	"cmd/parallax/inspect": {
		"docs", "proxy/certs", "shadow/ask", "shadow/diagnose", "shadow/divergence", "shadow/divergence/record", "shadow/judge", "shadow/member", "shadow/sweep",
	},
	"docs":                     nil,
	"config":                   nil,
	"proxy":                    {"proxy/goaway", "proxy/tap", "proxy/transport", "proxy/wire"},
	"proxy/certs":              nil,
	"proxy/goaway":             nil,
	"proxy/tap":                nil,
	"proxy/transport":          nil,
	"proxy/wire":               nil,
	"shadow":                   {"shadow/ask", "shadow/divergence", "shadow/evidence", "shadow/judge", "shadow/judge/drift", "shadow/member"},
	"shadow/diagnose":          {"shadow/ask", "shadow/judge", "shadow/judge/drift", "shadow/member"},
	"shadow/evidence":          {"shadow/divergence", "shadow/judge", "shadow/member"},
	"shadow/follow":            {"shadow/ask", "shadow/divergence", "shadow/divergence/record", "shadow/judge", "shadow/member"},
	"shadow/judge/drift":       nil,
	"shadow/probe":             {"shadow/divergence", "shadow/evidence", "shadow/judge", "shadow/judge/drift", "shadow/member"},
	"shadow/sweep":             {"shadow/ask", "shadow/divergence", "shadow/evidence", "shadow/judge", "shadow/member"},
	"shadow/ask":               {"shadow/judge", "shadow/member"},
	"shadow/divergence":        {"shadow/divergence/record"},
	"shadow/divergence/record": nil,
	"shadow/judge":             nil,
	"shadow/member":            nil,
	"shadow/member/membertest": nil,
}

func TestArrows(t *testing.T) {
	imports := listImports(t)
	if len(imports) != len(arrows) {
		t.Errorf("%d packages, and arrows are drawn for %d", len(imports), len(arrows))
	}
	for pkg, all := range imports {
		allowed, known := arrows[pkg]
		if !known {
			t.Errorf("package %s is on no floor of the house", pkg)
		}
		for _, path := range all {
			ours, isOurs := strings.CutPrefix(path, module+"/")
			if isOurs && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", pkg, ours)
			}
			if strings.HasPrefix(pkg, "proxy") && strings.HasPrefix(path, "go.etcd.io/") {
				t.Errorf("%s imports %s: the proxy knows no etcd message", pkg, path)
			}
		}
	}
}

// listImports of all packages of the product, tests not included.
func listImports(t *testing.T) map[string][]string {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if pkg, ok := strings.CutPrefix(words[0], module+"/"); ok {
			imports[pkg] = words[1:]
		}
	}
	return imports
}

func TestProductNeedsNoEtcdClientOrServer(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, banned := range []string{"go.etcd.io/etcd/client/v3", "go.etcd.io/etcd/server/v3", "gopkg.in/yaml.v3 "} {
		if bytes.Contains(mod, []byte(banned)) {
			t.Errorf("go.mod requires %s", banned)
		}
	}
}

// only says in which packages a call may stand.
var only = map[string][]string{
	"os.Exit":    {"cmd/parallax"},
	"log.Fatal":  nil,
	"log.Fatalf": nil,
	"time.Sleep": nil, // never a sleep for an event
	"recover":    {"proxy/tap", "shadow", "shadow/member"},
}

// longest is how long a file may get before it asks to be split.
const longest, mostFiles = 350, 8

func TestHouseRules(t *testing.T) {
	files := map[string]int{}
	for path, file := range sources(t) {
		pkg := filepath.ToSlash(filepath.Dir(path))
		files[pkg]++
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				name := callee(n)
				if allowed, ruled := only[name]; ruled && !slices.Contains(allowed, pkg) {
					t.Errorf("%s calls %s", path, name)
				}
			case *ast.FuncDecl:
				if n.Name.Name == "init" && n.Recv == nil {
					t.Errorf("%s has an init function", path)
				}
			}
			return true
		})
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(b, []byte("\n")); lines > longest {
			t.Errorf("%s has %d lines, split it", path, lines)
		}
	}
	for pkg, n := range files {
		if n > mostFiles {
			t.Errorf("%s has %d files, %d are the most", pkg, n, mostFiles)
		}
	}
}

func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

// sources are the product's Go files, without tests.
func sources(t *testing.T) map[string]*ast.File {
	files := map[string]*ast.File{}
	for _, root := range []string{"cmd", "config", "proxy", "shadow"} {
		walk(t, root, func(path string) {
			if strings.HasSuffix(path, "_test.go") || strings.Contains(path, "membertest") {
				return
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = f
		})
	}
	return files
}

func walk(t *testing.T, root string, visit func(path string)) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			visit(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every guarantee names tests, and every test that is named exists.
func TestGuaranteesAreTested(t *testing.T) {
	doc, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{} // name → packages that have it
	for _, root := range []string{"cmd", "config", "proxy", "shadow", "e2e"} {
		walk(t, root, func(path string) {
			if !strings.HasSuffix(path, "_test.go") {
				return
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllSubmatch(b, -1) {
				tests[string(m[1])] += " " + filepath.ToSlash(filepath.Dir(path))
			}
		})
	}
	sections := regexp.MustCompile(`(?m)^## (G\d)$`).Split(string(doc), -1)[1:]
	if len(sections) != 9 {
		t.Fatalf("%d guarantees, there are 9", len(sections))
	}
	for i, section := range sections {
		lines := regexp.MustCompile(`(?m)^- (.*) \((.*)\)$`).FindAllStringSubmatch(section, -1)
		if len(lines) == 0 && !strings.Contains(section, "There is no data directory") {
			t.Errorf("G%d names no test", i+1)
		}
		for _, line := range lines {
			for _, name := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(line[1], -1) {
				if !slices.Contains(strings.Fields(tests[name[1]]), line[2]) {
					t.Errorf("G%d names %s in %s, which is not there", i+1, name[1], line[2])
				}
			}
		}
	}
}
