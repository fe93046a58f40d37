package probe

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// cover says whether a rule reaches a member.
type cover struct {
	name    string // of the member
	why     string // not; empty: it does
	said    string // in the log
	refused uint64 // epoch in which the member refused for good; 0: it did not
	again   time.Time
}

// refusedFor is how long a member is not asked again what it refused for good.
// A permission may be granted.
const refusedFor = 5 * time.Minute

// rules in the order in which they are listed.
var rules = [...]drift.Rule{drift.RuleREV, drift.RuleLIN, drift.RuleLEASE, drift.RuleMEMBERSHIP, drift.RuleAUTH}

// covered by a rule: all members for REV; for the others, not learners, who
// answer nothing but Status.
func covered(rule drift.Rule, m *member.Member) bool { return rule == drift.RuleREV || !m.Learner }

// members that a rule asks now.
func (p *Probe) members(snap *member.Snapshot, rule drift.Rule) []*member.Member {
	return slices.DeleteFunc(slices.Clone(snap.Members), func(m *member.Member) bool {
		return !covered(rule, m) || p.refuses(rule, m)
	})
}

// refuses tells whether a member refused a rule for good a while ago.
func (p *Probe) refuses(rule drift.Rule, m *member.Member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.coverage[seat{rule, m.ID}]
	return c != nil && c.refused == m.Epoch() && time.Now().Before(c.again)
}

// cover notes how a call of a rule ended. With the lock held.
func (p *Probe) cover(rule drift.Rule, m *member.Member, err error) {
	c := p.coverage[seat{rule, m.ID}]
	if c == nil {
		c = &cover{}
		p.coverage[seat{rule, m.ID}] = c
	}
	c.name, c.why, c.refused = m.Name, "", 0
	switch refusal := lasting(err); {
	case err == nil:
		c.said = ""
	case refusal == "":
		c.why = "does not answer" // the Set says so in the log
	default:
		c.why, c.refused, c.again = refusal, m.Epoch(), time.Now().Add(refusedFor)
		if c.said != refusal && p.Logger != nil {
			p.Logger.Warn("a rule does not cover a member; the others go on without it",
				"rule", string(rule), "member", member.FormatID(m.ID), "url", m.URL, "reason", refusal, "needs", needs(rule))
		}
		c.said = refusal
	}
	p.Metrics.covers(rule, m.ID, c.why == "")
}

// uncover says that a rule does not reach a member for a reason of ours.
func (p *Probe) uncover(rule drift.Rule, m *member.Member, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.coverage[seat{rule, m.ID}]
	c.why, c.refused, c.again = why, m.Epoch(), time.Now().Add(refusedFor)
	if c.said != why && p.Logger != nil {
		p.Logger.Warn("a rule does not cover a member; the others go on without it",
			"rule", string(rule), "member", member.FormatID(m.ID), "url", m.URL, "reason", why)
	}
	c.said = why
	p.Metrics.covers(rule, m.ID, false)
}

func needs(rule drift.Rule) string {
	switch rule {
	case drift.RuleLIN, drift.RuleLEASE:
		return "READ on the whole key space"
	case drift.RuleAUTH:
		return "etcd 3.5 or newer, and the root role up to 3.6"
	}
	return "a user; the root role in etcd 3.4.42 to 45, 3.5.28 to 31, 3.6.0 to 11"
}

// keepCoverage forgets those that left, and says that learners are not covered.
// With the lock held.
func (p *Probe) keepCoverage(snap *member.Snapshot, here map[uint64]bool) {
	for s := range p.coverage {
		if !here[s.member] {
			delete(p.coverage, s)
			p.Metrics.left(s.rule, s.member)
		}
	}
	for s := range p.rests {
		if !here[s.member] {
			delete(p.rests, s)
		}
	}
	for _, m := range snap.Members {
		for _, rule := range rules {
			if !covered(rule, m) && (rule != drift.RuleAUTH || p.AuthInterval > 0) {
				p.coverage[seat{rule, m.ID}] = &cover{name: m.Name, why: "a learner, which answers nothing but Status"}
				p.Metrics.covers(rule, m.ID, false)
			}
		}
	}
}

// Coverage says in a line for each rule which members it reaches, and why not
// the others.
func (p *Probe) Coverage() []string {
	p.prepare()
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []string
	for _, rule := range rules {
		if rule == drift.RuleAUTH && p.AuthInterval <= 0 {
			lines = append(lines, string(rule)+": off")
			continue
		}
		all, reached := 0, 0
		var not []string
		for s, c := range p.coverage {
			if s.rule != rule {
				continue
			}
			all++
			if c.why == "" {
				reached++
			} else {
				not = append(not, fmt.Sprintf("%s (%s): %s", c.name, member.FormatID(s.member), c.why))
			}
		}
		slices.Sort(not)
		lines = append(lines, strings.Join(append([]string{fmt.Sprintf("%s: %d of %d members", rule, reached, all)}, not...), "; "))
	}
	return lines
}

// alarm that is raised for a member, as etcd's Status.errors has it among others:
// "memberID:10501334649042878790 alarm:CORRUPT".
type alarm struct {
	member uint64
	kind   string
}

// The spaces differ between protobuf libraries, and even from build to build.
var alarmText = regexp.MustCompile(`^(?:memberID:(\d+)\s+)?alarm:(CORRUPT|NOSPACE)\s*$`)

func alarmsIn(errors []string) map[alarm]bool {
	var all map[alarm]bool
	for _, text := range errors {
		f := alarmText.FindStringSubmatch(text)
		if f == nil {
			continue
		}
		id, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil && f[1] != "" {
			continue
		}
		if all == nil {
			all = map[alarm]bool{}
		}
		all[alarm{id, f[2]}] = true
	}
	return all
}

// alarmed takes in what a member says of alarms. Each is raised when the first
// member tells of it, and over when the last one does not any more.
func (p *Probe) alarmed(by *member.Member, errors []string) {
	now := alarmsIn(errors)
	var raised []alarm
	p.mu.Lock()
	for a := range now {
		if p.alarms[a] == nil {
			p.alarms[a] = map[uint64]bool{}
			raised = append(raised, a)
		}
		p.alarms[a][by.ID] = true
	}
	for a, reporters := range p.alarms {
		if !now[a] {
			delete(reporters, by.ID)
			p.calmed(a)
		}
	}
	p.mu.Unlock()
	for _, a := range raised {
		p.Metrics.alarmed(a, true)
		if p.Logger != nil {
			p.Logger.Warn("etcd has raised an alarm for a member: look into it with etcdctl alarm list",
				"member", member.FormatID(a.member), "alarm", a.kind)
		}
		if p.Alarm != nil {
			p.Alarm(a.member, a.kind)
		}
	}
}

// calmed forgets an alarm of which nobody tells any more. With the lock held.
func (p *Probe) calmed(a alarm) {
	if len(p.alarms[a]) > 0 {
		return
	}
	delete(p.alarms, a)
	p.Metrics.alarmed(a, false)
	if p.Logger != nil {
		p.Logger.Info("an alarm of etcd is over", "member", member.FormatID(a.member), "alarm", a.kind)
	}
}

// keepAlarms forgets what those that left had said. With the lock held.
func (p *Probe) keepAlarms(here map[uint64]bool) {
	for a, reporters := range p.alarms {
		forget(reporters, here)
		p.calmed(a)
	}
}
