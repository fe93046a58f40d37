package drift

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The transcripts in testdata read as stories, one for each directive; its name is
// the rule, and each line an answer or a round. Members are A to G, with ids 1 to
// 7, and A@2 is A on its second connection. What was found shows under the line's
// number. `go test -rewrite` writes the expectations.
//
//	rev                             A@1 10 20/19         revision, raftIndex/applied; also "learner"
//	                                again LINE | LINE    both sides of the suspicions, once more
//	                                keep A,B             forget the others
//	lin                             0s A@1 10 | B@1 9 | A@1 10   also "leader=B", "term=3", "learner"
//	lease                           A@1 20..21 rev=10 1a 1b      applied before, raftIndex after, leases; also "booting"
//	membership                      round 20             highest raftIndex before it, then a line each:
//	                                A@1 20..21 rev=10 A B/learner C=u1,u2
//	auth                            A@1 5 | B@1 6 | A@1 5 | B@1 6
func TestTranscripts(t *testing.T) {
	tellers := map[string]func(*testing.T, []string) []string{
		"rev": tellRev, "lin": tellLin, "lease": tellLease, "membership": tellMembership, "auth": tellAuth,
	}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			tell := tellers[d.Cmd]
			if tell == nil {
				t.Fatalf("unknown rule %q", d.Cmd)
			}
			lines := tell(t, strings.Split(d.Input, "\n"))
			if len(lines) == 0 {
				return "silent\n"
			}
			return strings.Join(lines, "\n") + "\n"
		})
	})
}

func tellRev(t *testing.T, lines []string) (out []string) {
	var rev Rev
	var open []Suspicion
	for i, line := range lines {
		words := strings.Fields(line)
		switch words[0] {
		case "keep":
			var ids []uint64
			for name := range strings.SplitSeq(words[1], ",") {
				ids = append(ids, memberID(name))
			}
			rev.Keep(ids)
		case "again":
			a, b := parseStatus(t, parts(line)[0][1:]), parseStatus(t, parts(line)[1])
			rev.See(a)
			rev.See(b)
			for _, x := range open {
				if f, ok := rev.Confirm(x, a, b); ok {
					out = append(out, tellFinding(i, f)...)
				} else {
					out = append(out, fmt.Sprintf("%d: not confirmed: %s ahead of %s", i+1, name(x.Ahead), name(x.Behind)))
				}
			}
			open = nil
		default:
			for _, x := range rev.See(parseStatus(t, words)) {
				out = append(out, fmt.Sprintf("%d: suspicion: %s ahead of %s by %d", i+1, name(x.Ahead), name(x.Behind), x.Gap))
				open = append(open, x)
			}
		}
	}
	return out
}

func tellLin(t *testing.T, lines []string) (out []string) {
	var lin Lin
	for i, line := range lines {
		p := parts(line)
		at, err := time.ParseDuration(p[0][0])
		if err != nil {
			t.Fatal(err)
		}
		round := LinRound{A1: parseStatus(t, p[0][1:]), A2: parseStatus(t, p[2]), At: time.Unix(0, 0).Add(at)}
		b := parseStatus(t, p[1])
		round.B = LinRead{Member: b.Member, Epoch: b.Epoch, Revision: b.Revision, RaftTerm: b.RaftTerm}
		if f, ok := lin.See(round); ok {
			out = append(out, tellFinding(i, f)...)
		}
	}
	return out
}

func tellLease(t *testing.T, lines []string) (out []string) {
	var lease Lease
	for i, line := range lines {
		words := strings.Fields(line)
		r := LeaseReading{Live: true}
		r.Member, r.Epoch = parseMember(t, words[0])
		r.AppliedBefore, r.CommittedAfter = parseWindow(t, words[1])
		for _, w := range words[2:] {
			if v, ok := strings.CutPrefix(w, "rev="); ok {
				r.Revision = int64(number(t, v))
			} else if w == "booting" {
				r.Live = false
			} else {
				id, err := strconv.ParseInt(w, 16, 64)
				if err != nil {
					t.Fatal(err)
				}
				r.Leases = append(r.Leases, id)
			}
		}
		for _, f := range lease.See(r) {
			out = append(out, tellFinding(i, f)...)
		}
	}
	return out
}

func tellMembership(t *testing.T, lines []string) (out []string) {
	var membership Membership
	var round []ListReading
	highest, began, rounds := uint64(0), false, 0
	end := func() {
		if began {
			for _, f := range membership.See(round, highest) {
				out = append(out, tellFinding(rounds-1, f)...)
			}
		}
		round = nil
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if words[0] == "round" {
			end()
			began, highest = true, number(t, words[1])
			rounds++
			continue
		}
		r := ListReading{Live: true}
		r.Member, r.Epoch = parseMember(t, words[0])
		r.Applied, r.CommittedAfter = parseWindow(t, words[1])
		for _, w := range words[2:] {
			if v, ok := strings.CutPrefix(w, "rev="); ok {
				r.Revision = int64(number(t, v))
			} else if w == "booting" {
				r.Live = false
			} else {
				r.List = append(r.List, parseListed(w))
			}
		}
		round = append(round, r)
	}
	end()
	return out
}

func parseListed(word string) Listed {
	who, urls, _ := strings.Cut(word, "=")
	who, learner := strings.CutSuffix(who, "/learner")
	if urls == "" {
		urls = who
	}
	return Listed{ID: memberID(who), Learner: learner, PeerURLs: strings.Split(urls, ",")}
}

func tellAuth(t *testing.T, lines []string) (out []string) {
	var auth Auth
	for i, line := range lines {
		var reads [4]AuthRead
		for j, words := range parts(line) {
			reads[j].Member, reads[j].Epoch = parseMember(t, words[0])
			reads[j].Revision = number(t, words[1])
		}
		if f, ok := auth.See(AuthRound{reads[0], reads[1], reads[2], reads[3]}); ok {
			out = append(out, tellFinding(i, f)...)
		}
	}
	return out
}

func tellFinding(line int, f Finding) []string {
	head := fmt.Sprintf("%d: %s", line+1, f.Rule)
	if f.Subject != "" {
		head += " of " + f.Subject
	}
	if f.Gap != 0 {
		head += fmt.Sprintf(", gap %d", f.Gap)
	}
	out := []string{head}
	for _, g := range f.Groups {
		var who strings.Builder
		for _, m := range g.Members {
			who.WriteString(name(m))
		}
		out = append(out, fmt.Sprintf("     %s %s", who.String(), g.Shows))
	}
	return out
}

// parts are the words between bars.
func parts(line string) (out [][]string) {
	for p := range strings.SplitSeq(line, "|") {
		out = append(out, strings.Fields(p))
	}
	return out
}

func name(member uint64) string { return string(rune('A' + member - 1)) }

func memberID(name string) uint64 { return uint64(name[0]-'A') + 1 }

func parseMember(t *testing.T, word string) (member, epoch uint64) {
	who, e, ok := strings.Cut(word, "@")
	if !ok || len(who) != 1 {
		t.Fatalf("want MEMBER@EPOCH, got %q", word)
	}
	return memberID(who), number(t, e)
}

func parseWindow(t *testing.T, word string) (before, after uint64) {
	b, a, ok := strings.Cut(word, "..")
	if !ok {
		return number(t, b), 0
	}
	return number(t, b), number(t, a)
}

func number(t *testing.T, word string) uint64 {
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func parseStatus(t *testing.T, words []string) Status {
	s := Status{RaftTerm: 2, Leader: 1}
	s.Member, s.Epoch = parseMember(t, words[0])
	s.Revision = int64(number(t, words[1]))
	for _, w := range words[2:] {
		if committed, applied, ok := strings.Cut(w, "/"); ok {
			s.RaftIndex, s.Applied = number(t, committed), number(t, applied)
		} else if leader, ok := strings.CutPrefix(w, "leader="); ok {
			s.Leader = uint64(strings.IndexByte("-ABCDEFG", leader[0]))
		} else if term, ok := strings.CutPrefix(w, "term="); ok {
			s.RaftTerm = number(t, term)
		} else if w == "learner" {
			s.Learner = true
		} else {
			t.Fatalf("unknown word %q", w)
		}
	}
	return s
}
