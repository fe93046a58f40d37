package diagnose

import (
	"strconv"
	"time"
)

// Schema names the form of a report in JSON.
const Schema = "parallax.diagnose/v1"

// ID of a cluster, member or lease; JSON has it in hex, as etcdctl prints it.
type ID uint64

func (i ID) String() string { return strconv.FormatUint(uint64(i), 16) }

// MarshalText writes hex.
func (i ID) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Report of one look at a cluster.
type Report struct {
	Schema     string     `json:"schema"`
	Began      time.Time  `json:"began"`
	Seconds    float64    `json:"seconds"`
	Conclusion Conclusion `json:"conclusion"`
	Checks     []Check    `json:"checks"`
	Bugs       []Bug      `json:"bugs"` // of the members' versions
	Facts      Facts      `json:"facts"`
}

// Facts are what was seen. Conclude draws from them, and from nothing else.
type Facts struct {
	ClusterID   ID       `json:"cluster_id"`
	Voters      []ID     `json:"voters,omitempty"`  // none where nobody can tell (etcd before 3.5)
	Members     []Member `json:"members"`           // by name
	Apart       []Apart  `json:"apart,omitempty"`   // URLs at which nothing can be compared
	Remarks     []string `json:"remarks,omitempty"` // of the connection, such as a missing permission
	Interrupted bool     `json:"interrupted"`

	Samples    int     `json:"samples"`         // of revisions, for REV
	Pairs      []Pair  `json:"pairs,omitempty"` // of LIN
	LeaseReads int     `json:"lease_reads"`     // for LEASE
	LeaseEqual bool    `json:"lease_equal"`     // in one round at least, all members had the same leases
	ListRounds int     `json:"list_rounds"`     // for MEMBERSHIP
	Keys       Keys    `json:"keys"`
	Hashes     []Hash  `json:"hashes,omitempty"` // none unless they were asked for
	Found      []Found `json:"found,omitempty"`
}

// Member as it was seen last.
type Member struct {
	ID       ID     `json:"id"`
	Name     string `json:"name"`
	URL      string `json:"url"`
	Learner  bool   `json:"learner"`
	NotAsked string `json:"not_asked,omitempty"` // why it told nothing of itself

	Version   string   `json:"version"`
	Leader    ID       `json:"leader"`
	RaftTerm  uint64   `json:"raft_term"`
	Committed uint64   `json:"raft_index"`
	Applied   uint64   `json:"raft_applied_index"`
	Revision  int64    `json:"revision"`
	DBSize    int64    `json:"db_size"`
	DBInUse   int64    `json:"db_size_in_use"`
	Alarms    []string `json:"errors,omitempty"`

	AppliedBefore uint64 `json:"raft_applied_index_before"` // at the beginning
	Live          bool   `json:"live"`                      // its revision was seen to change

	Keys    *int64   `json:"keys,omitempty"`    // at Facts.Keys.Revision
	Leases  *int     `json:"leases,omitempty"`  // none: a learner refuses it
	Lists   []Listed `json:"lists,omitempty"`   // its own member list
	Refused []string `json:"refused,omitempty"` // what it was asked in vain, and why
}

// Listed is a member as another one lists it.
type Listed struct {
	ID      ID     `json:"id"`
	Name    string `json:"name"`
	Learner bool   `json:"learner"`
}

// Apart is a URL at which nothing can be compared.
type Apart struct {
	URL string `json:"url"`
	Why string `json:"why"`
}

// Pair of members, of which B may be behind A.
type Pair struct {
	A       ID      `json:"a"`
	B       ID      `json:"b"`
	Rounds  int     `json:"rounds"`  // of LIN
	Seconds float64 `json:"seconds"` // from the first to the last
	Behind  int     `json:"behind"`  // the last so many rounds showed B behind A; some more of them prove it
	// RevSlack and LinSlack are the fewest revisions that came between what A showed and what B did: had B been further behind
	// than that, REV or LIN would have seen it. 0 is exact; none: never asked, or A is not live.
	RevSlack *int64 `json:"rev_slack,omitempty"`
	LinSlack *int64 `json:"lin_slack,omitempty"`

	first time.Time
}

// Keys is what was asked about keys.
type Keys struct {
	Revision  int64          `json:"revision"`            // at which they were counted
	Uncounted string         `json:"uncounted,omitempty"` // why some members were not asked to
	Compared  int            `json:"compared"`            // keys, of the sample
	Ranges    int            `json:"ranges"`              // they were in
	Unclear   map[string]int `json:"unclear,omitempty"`   // ranges that could not be compared, by reason
	LostOver  string         `json:"lost_over,omitempty"` // the range over which a member was lost
	LostWhom  []ID           `json:"lost_whom,omitempty"`
}

// Hash that a member gave. Never evidence by itself.
type Hash struct {
	Member   ID     `json:"member"`
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"hash_revision"`
	Compact  int64  `json:"compact_revision"`
	Why      string `json:"not_given,omitempty"`
}

// Found is one proved difference.
type Found struct {
	Rule    string  `json:"rule"`              // PIN, REV, LIN, LEASE, MEMBERSHIP
	Subject string  `json:"subject,omitempty"` // a key, a lease, a member
	Groups  []Group `json:"groups"`
	Gap     int64   `json:"gap,omitempty"` // REV, LIN: revisions between the first and the second group
}

// Group of members that agree with one another.
type Group struct {
	Members  []ID   `json:"members"`
	Shows    string `json:"shows"`
	Revision int64  `json:"revision,omitempty"`
}
