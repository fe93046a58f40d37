package tap

// A call is a stream that somebody wants.
type call struct {
	method   string
	epoch    uint64
	room     int      // bytes of the first request message that are wanted
	asked    bool     // the request message is whole, and Observer.Response has said what is wanted of the answer
	request  []byte   // … that message
	in       message  // … while it is read
	inCoding encoding // … and its compression

	limits    Limits
	foreign   bool // the answer is not gRPC
	out       message
	outCoding encoding
	responses [][]byte // until it is handed over; before asked: held back
	copied    int      // bytes of responses
	truncated bool
	code      int
	message   string

	charged int
	given   bool   // the observer has the request: it is no longer ours
	scratch []byte // reused for the request of the next call, unless given
}

// ask opens a call, if the observer wants it. early: the member has answered it before (in what was fed), so that no epoch of
// now says when.
func (t *Tap) ask(s *stream, h *headerBlock, early bool) {
	if early && s.call == nil {
		return // passed over already
	}
	room := 0
	if h.path != "" {
		room = t.cfg.Observer.Request(h.path)
	}
	if room <= 0 {
		t.forget(s)
		return
	}
	if !early {
		s.call = t.newCall()
		s.call.epoch = t.cfg.Epoch()
	}
	c := s.call
	c.method, c.room, c.inCoding = h.path, min(room, MaxBytes), encodingOf(h.encoding)
	n := len(c.method)
	if !early {
		n += callOverhead
	}
	if !t.charge(c, n) {
		t.passOver(s, PassedMemory)
	}
}

// request reads the first request message; the ones of a client stream that follow are nobody's concern.
func (t *Tap) request(s *stream, p []byte) {
	c := s.call
	if c.asked {
		return
	}
	m := &c.in
	if !m.begun() {
		if p = m.begin(p); !m.begun() {
			return
		}
		why := ""
		switch n := m.size(); {
		case !m.wellFormed():
			why = PassedMalformed
		case n > m.wire(c.room):
			why = PassedTooLarge
		case !t.charge(c, int(n)):
			why = PassedMemory
		default:
			m.keep, m.buf = true, c.requestBuffer(int(n))
		}
		if why != "" {
			t.passOver(s, why)
			return
		}
	}
	if m.read(p); !m.whole() {
		return
	}
	c.request = m.buf
	if m.compressed() && len(m.buf) > 0 {
		data, cut, why := t.decompress(c, c.inCoding, m.buf, min(c.room, maxRatio*len(m.buf)), false)
		if cut {
			why = PassedTooLarge
		}
		if why != "" {
			t.passOver(s, why)
			return
		}
		c.request = data
	}
	c.in = message{}
	t.askResponse(s)
}

// askResponse learns what is wanted of the answer, and looks again at what has come of it.
func (t *Tap) askResponse(s *stream) {
	c := s.call
	c.limits = t.cfg.Observer.Response(c.method, c.request)
	c.limits.Bytes = min(c.limits.Bytes, MaxBytes) // more would not be charged
	c.asked = true
	if c.limits.Bytes <= 0 {
		t.forget(s)
		return
	}
	held := c.responses
	c.responses, c.copied = nil, 0
	for _, data := range held {
		t.answered(c, data, false)
	}
	t.settle(s)
}

func (t *Tap) result(c *call) Call {
	c.given = true
	return Call{
		Method: c.method, Endpoint: t.cfg.Endpoint, Epoch: c.epoch, Request: c.request, Responses: c.responses,
		Truncated: c.truncated, Code: c.code, Message: c.message, Final: true,
	}
}

// settle hands the call over if both halves of it are known.
func (t *Tap) settle(s *stream) {
	c := s.call
	if c == nil || !c.asked || !s.downEnded {
		return
	}
	if c.out.n > 0 && c.code == 0 {
		t.passOver(s, PassedIncomplete)
		return
	}
	t.handOver(s)
}

func (t *Tap) handOver(s *stream) {
	result := t.result(s.call)
	t.forget(s)
	t.cfg.Observer.Observe(result)
}

func (t *Tap) passOver(s *stream, why string) {
	t.forget(s)
	t.cfg.Passed(why)
}

// forget lets go of a call; what remains of the stream is that it is open.
func (t *Tap) forget(s *stream) {
	c := s.call
	if c == nil {
		return
	}
	t.refund(c, c.charged)
	s.call = nil
	t.wanted--
	if len(t.spareCalls) < maxSpareCalls {
		scratch := c.scratch
		if c.given {
			scratch = nil
		}
		*c = call{scratch: scratch}
		t.spareCalls = append(t.spareCalls, c)
	}
}

// newCall reuses the record of a call that is over, and with it the copy of a request that was looked at and then not wanted:
// when one read in ten is sampled, nine of them cost no allocation.
func (t *Tap) newCall() *call {
	t.wanted++
	n := len(t.spareCalls)
	if n == 0 {
		return &call{code: -1}
	}
	c := t.spareCalls[n-1]
	t.spareCalls = t.spareCalls[:n-1]
	c.code = -1
	return c
}

func (c *call) requestBuffer(n int) []byte {
	if n > maxScratch {
		return make([]byte, 0, n)
	}
	if cap(c.scratch) < n {
		c.scratch = make([]byte, 0, n)
	}
	return c.scratch[:0:n]
}
