package drift

import "slices"

// replica is a member: it learns how far the log is committed, applies it, keeps a
// backend that lags behind its memory, and dies.
type replica struct {
	id, epoch   uint64
	learner, up bool
	// modern members (3.6) start with the membership of their backend, older ones
	// replay it from the snapshot of their WAL on.
	modern bool

	state     state
	list      list
	position  uint64 // of the apply loop
	half      bool   // the next entry is in the state already, and no index says so
	applied   uint64 // as Status shows it
	committed uint64 // likewise

	disk       image
	installing []func()               // steps of a snapshot that is being applied
	replies    map[uint64]func(state) // of entries that were proposed through this process
	task       *task
	tainted    bool // ever hit by a fault, or given the state of one that was
}

// image is what survives: a backend, at its consistent index, and a WAL that is
// replayed from an older snapshot, with the membership of then.
type image struct {
	state    state
	list     list
	snapshot uint64
}

type backup struct {
	image
	log []entry
}

// cluster has one log; what it holds is committed.
type cluster struct {
	log      []entry
	truth    state // what the log says
	members  list
	replicas []*replica
	backups  []backup
	fault    fault
}

// fault that strikes one replica at the next entry that it applies.
type fault struct {
	replica *replica
	kind    faultKind
}

type faultKind string

const (
	skip      faultKind = "skip"   // #13766, #18667, #11651
	double    faultKind = "double" // #14685
	flipLease faultKind = "lease"  // #12535, #11613
	flipList  faultKind = "list"   // #13196, #20967
	authAhead faultKind = "auth"   // #11651
)

func newCluster(n int, d *dice) *cluster {
	c := &cluster{truth: state{rev: 1}}
	c.members.way[0] = voter
	for i := range n {
		r := &replica{id: uint64(i + 1), learner: i == 3, modern: d.IntN(2) == 0}
		r.disk = image{state: c.truth.clone(), list: c.members}
		c.replicas = append(c.replicas, r)
		c.start(r)
	}
	return c
}

func (c *cluster) propose(e entry) uint64 {
	c.log = append(c.log, e)
	c.truth.apply(e)
	c.truth.index++
	c.members.apply(e)
	return uint64(len(c.log))
}

func (c *cluster) start(r *replica) {
	r.up = true
	r.epoch++
	r.state, r.list = r.disk.state.clone(), r.disk.list
	// Its backend may contain more than its commit index says (#20426): the
	// entries up to the backend's consistent index are replayed without effect.
	r.position, r.applied, r.committed = r.disk.snapshot, r.disk.snapshot, r.disk.snapshot
	r.half, r.installing, r.replies = false, nil, make(map[uint64]func(state))
}

func (c *cluster) stop(r *replica) {
	r.up = false
	if t := r.task; t != nil {
		r.task = nil
		t.fail()
	}
}

// learn how far the log is committed, as a heartbeat tells it.
func (c *cluster) learn(r *replica, to uint64) {
	r.committed = max(r.committed, min(to, uint64(len(c.log))))
}

// step of a replica's apply loop. The state changes first, then the index.
func (c *cluster) step(r *replica) {
	switch {
	case len(r.installing) > 0:
		next := r.installing[0]
		r.installing = r.installing[1:]
		next()
	case r.half:
		r.half = false
		r.position++
		r.applied = r.position
	case r.position < r.committed:
		r.half = true
		i := r.position + 1
		e := c.log[i-1]
		if i > r.state.index || !r.modern {
			r.list.apply(e)
		}
		if i > r.state.index {
			c.strike(r, e)
			r.state.index = i
		}
		if reply := r.replies[i]; reply != nil {
			reply(r.state)
		}
	}
}

// strike applies an entry, or what the fault makes of it.
func (c *cluster) strike(r *replica, e entry) {
	n := 1
	if c.fault.replica == r {
		r.tainted = true
		switch c.fault.kind {
		case skip:
			n = 0
		case double:
			n = 2
		case flipLease:
			r.state.leases[e.value%modelLeases] = !r.state.leases[e.value%modelLeases]
		case flipList:
			if way := &r.list.way[e.value%modelListed]; *way == voter || *way == learner {
				*way = unlisted
			} else {
				*way = voter
			}
		case authAhead:
			r.state.auth++
		}
		c.fault = fault{}
	}
	for range n {
		r.state.apply(e)
	}
}

// persist what a batch commit of the backend holds, and sometimes a snapshot.
func (c *cluster) persist(r *replica, snapshot bool) {
	if len(r.installing) > 0 {
		return // the backend is the file that was received
	}
	snapshot = snapshot && !r.half
	r.disk.state = r.state.clone()
	if snapshot {
		r.disk.snapshot = r.position
	}
	if snapshot || r.modern {
		r.disk.list = r.list
	}
}

// install a snapshot of another member, because this one is far behind. The
// membership, the store and the lessor are not replaced at one moment.
func (c *cluster) install(r, from *replica) {
	s := from.position
	if !r.up || !from.up || r.half || from.half || len(r.installing)+len(from.installing) > 0 ||
		from.state.index != s || s <= r.state.index || s <= r.committed {
		return
	}
	snap := image{state: from.state.clone(), list: from.list, snapshot: s}
	r.disk, r.committed, r.tainted = snap, s, r.tainted || from.tainted
	r.installing = []func(){
		func() { r.state.leases = snap.state.leases },
		func() { leases := r.state.leases; r.state = snap.state.clone(); r.state.leases = leases },
		func() { r.list = snap.list },
		func() { r.position = s }, // the applied index follows with the next entry
	}
}

func (c *cluster) backup() {
	c.backups = append(c.backups, backup{
		image{state: c.truth.clone(), list: c.members, snapshot: uint64(len(c.log))}, slices.Clip(c.log),
	})
}

// restore the whole cluster from a backup behind everybody's back: ids are equal,
// and processes, connections and the log are not. Restored from a snapshot file
// the log begins anew, from images of the disks where it was.
func (c *cluster) restore(d *dice) {
	if len(c.backups) == 0 {
		return
	}
	b := c.backups[d.IntN(len(c.backups))]
	b.state = b.state.clone()
	if d.IntN(2) == 0 {
		b.log, b.snapshot, b.state.index = nil, 0, 0
		b.list = list{way: [modelListed]uint8{voter}}
	}
	was := len(c.log)
	c.log, c.truth, c.members = slices.Clone(b.log), b.state.clone(), b.list
	for _, r := range c.replicas {
		c.stop(r)
		r.disk = image{state: b.state.clone(), list: b.list, snapshot: b.snapshot}
	}
	for range d.IntN(2*min(was, 100) + 1) { // it has been running for a while when we see it
		c.propose(entry{kind: empty})
	}
	c.backups = nil
	c.fault = fault{}
}

// settle lets everybody come up and apply everything.
func (c *cluster) settle() {
	for _, r := range c.replicas {
		if !r.up {
			c.start(r)
		}
		if t := r.task; t != nil {
			r.task = nil
			t.fail()
		}
		c.learn(r, uint64(len(c.log)))
		for r.position < uint64(len(c.log)) || r.half || len(r.installing) > 0 {
			c.step(r)
		}
	}
}
