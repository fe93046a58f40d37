package tap

import "time"

// A stream is one call of any kind, wanted or not. Both sides end it, each in its own time.
type stream struct {
	call      *call // nil: nobody wants it, or it has been handed over or passed over
	upEnded   bool  // the client's half: the request is complete
	answered  bool  // the member's half has begun: the first headers of the answer have come
	downEnded bool  // … and the answer is complete
	waits     bool  // counts in Tap.unanswered
	reset     bool  // by the member, before it was opened

	// Where calls are timed. The method itself is not kept: a client may make it 64 KiB long.
	opened int           // what Config.Opened returned
	since  time.Duration // the end of the request, by Config.Clock
}

// requestHeaders opens a stream.
func (t *Tap) requestHeaders(id uint32, h *headerBlock) Reason {
	if id%2 == 0 {
		return ReasonStreamID
	}
	if id <= t.top { // trailers of a request, or a stream that has been forgotten
		if h.endStream {
			t.endUp(id)
		}
		return ""
	}
	t.top = id
	s, why := t.fromEarly(id)
	if why != "" {
		return why
	}
	if s != nil && (s.reset || id > t.last) {
		t.forget(s)
		return ""
	}
	if id > t.last {
		return "" // it will never be answered
	}
	if len(t.streams) >= maxStreams {
		return ReasonMemory
	}
	early := s != nil
	if s == nil {
		s = t.newStream()
	}
	t.streams[id] = s
	t.await(s)
	if t.timed {
		s.opened = t.cfg.Opened(h.path)
	}
	t.ask(s, h, early)
	if h.endStream {
		t.endUp(id)
	}
	return ""
}

// answerHeaders is the head of an answer, its trailers, or both in one (trailers only).
func (t *Tap) answerHeaders(id uint32, h *headerBlock) Reason {
	s, why := t.answering(id, true)
	if s == nil || s.downEnded {
		return why
	}
	if len(h.status) == 3 && h.status[0] == '1' {
		return "" // 1xx: informational, the answer is still to come
	}
	if s.answered = true; t.streams[id] == s {
		t.await(s)
	}
	if s.call != nil {
		t.answerHead(s, h)
	}
	if h.endStream {
		t.endDown(id, s)
	}
	return ""
}

func (t *Tap) requestData(id uint32, p []byte) Reason {
	s := t.streams[id]
	if s == nil {
		if id > t.top || id%2 == 0 {
			return ReasonStreamID
		}
		return ""
	}
	if s.call != nil && !s.upEnded {
		t.request(s, p)
	}
	return ""
}

func (t *Tap) answerData(id uint32, p []byte) Reason {
	s, why := t.answering(id, false)
	if s != nil && s.call != nil && !s.downEnded {
		t.answer(s, p)
	}
	return why
}

func (t *Tap) endStream(d Direction, id uint32) Reason {
	if d == Up {
		if id > t.top || id%2 == 0 {
			return ReasonStreamID
		}
		t.endUp(id)
		return ""
	}
	s, why := t.answering(id, false)
	if s != nil {
		t.endDown(id, s)
	}
	return why
}

func (t *Tap) endUp(id uint32) {
	s := t.streams[id]
	if s == nil || s.upEnded {
		return
	}
	s.upEnded = true
	if s.call != nil && !s.call.asked {
		t.passOver(s, PassedIncomplete)
	}
	if s.downEnded {
		t.remove(id, s)
		return
	}
	t.await(s)
	if t.timed && isTimed(id) {
		s.since = t.cfg.Clock()
	}
}

// isTimed picks the first call of a connection and then one in sixteen. To look at the clock twice for each would be a tenth of what
// relaying a small call costs. (Ids of calls are odd.)
func isTimed(id uint32) bool { return id%32 == 1 }

func (t *Tap) endDown(id uint32, s *stream) {
	if s.downEnded {
		return
	}
	s.downEnded = true
	t.settle(s)
	t.await(s)
	if s.upEnded {
		if t.timed && isTimed(id) {
			t.cfg.Answered(s.opened, t.cfg.Clock()-s.since)
		}
		t.remove(id, s)
	}
}

// resetStream ends a stream on both sides, whoever says so.
func (t *Tap) resetStream(d Direction, id uint32) Reason {
	if d == Up && (id > t.top || id%2 == 0) {
		return ReasonStreamID
	}
	s := t.streams[id]
	if s == nil {
		if d == Down && id > t.top {
			s, why := t.answering(id, true)
			if s != nil {
				t.forget(s)
				s.reset = true
			}
			return why
		}
		return ""
	}
	t.breakOff(id, s)
	return ""
}

// goAway: streams above last are not answered, and their clients try them elsewhere.
func (t *Tap) goAway(last uint32) {
	if last >= t.last {
		return
	}
	t.last = last
	if last >= t.top {
		return
	}
	for id, s := range t.streams {
		if id > last {
			t.breakOff(id, s)
		}
	}
}

func (t *Tap) breakOff(id uint32, s *stream) {
	if s.call != nil {
		if s.call.asked {
			t.handOver(s)
		} else {
			t.passOver(s, PassedIncomplete)
		}
	}
	t.remove(id, s)
}

// answering finds the stream that the member speaks of; nil if it has been forgotten. The answer to a stream that is not open yet
// is kept until it is, if head says that it begins here.
func (t *Tap) answering(id uint32, head bool) (*stream, Reason) {
	if s := t.streams[id]; s != nil {
		return s, ""
	}
	if id%2 == 0 {
		return nil, ReasonUnpaired
	}
	if id <= t.top {
		return nil, ""
	}
	s := t.early[id]
	if s == nil {
		if !head || len(t.early) >= maxEarly {
			return nil, ReasonUnpaired
		}
		s = t.newStream()
		s.call = t.newCall()
		t.early[id] = s
		if !t.charge(s.call, callOverhead) {
			t.passOver(s, PassedMemory)
		}
	}
	return s, ""
}

// fromEarly takes out the stream that was answered before it is opened now. Ids only grow: an answer to an id below, that was never
// opened, belongs to nothing.
func (t *Tap) fromEarly(id uint32) (*stream, Reason) {
	if len(t.early) == 0 {
		return nil, ""
	}
	s := t.early[id]
	delete(t.early, id)
	for other := range t.early {
		if other < id {
			return nil, ReasonUnpaired
		}
	}
	return s, ""
}

func (t *Tap) newStream() *stream {
	if n := len(t.spare); n > 0 {
		s := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return s
	}
	return new(stream)
}

// await counts the calls that a client waits for: those whose request is complete and whose answer is not, and those whose answer has
// not begun, whether or not all of the request is there yet. What is left are streams that both sides keep open.
func (t *Tap) await(s *stream) {
	waits := !s.downEnded && (s.upEnded || !s.answered)
	switch {
	case waits && !s.waits:
		t.unanswered++
	case s.waits && !waits:
		t.unanswered--
	}
	s.waits = waits
}

func (t *Tap) remove(id uint32, s *stream) {
	if s.waits {
		t.unanswered--
	}
	delete(t.streams, id)
	if len(t.spare) < maxSpare {
		*s = stream{}
		t.spare = append(t.spare, s)
	}
}
