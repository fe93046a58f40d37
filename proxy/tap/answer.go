package tap

// answerHead takes the answer's headers, or its trailers.
func (t *Tap) answerHead(s *stream, h *headerBlock) {
	c := s.call
	if h.status != "" && h.status != "200" {
		c.foreign = true // from something before the member: its body is no message
	}
	if h.encoding != "" {
		c.outCoding = encodingOf(h.encoding)
	}
	if !h.endStream {
		return
	}
	c.code, c.message = statusCode(h.code), percentDecode(h.message)
	if !t.charge(c, len(c.message)) {
		t.passOver(s, PassedMemory)
	}
}

// answer reads answer messages.
func (t *Tap) answer(s *stream, p []byte) {
	c := s.call
	m := &c.out
	for len(p) > 0 && s.call != nil && !c.foreign {
		if m.begun() {
			p = m.read(p)
		} else {
			if p = m.begin(p); !m.begun() {
				return
			}
			if why := t.beginAnswer(c); why != "" {
				t.passOver(s, why)
				return
			}
		}
		if m.whole() {
			if why := t.endAnswer(c); why != "" {
				t.passOver(s, why)
				return
			}
		}
	}
}

// left is how many more bytes of the answer are wanted.
func (c *call) left() int {
	switch {
	case !c.asked:
		return maxHeld - c.copied
	case c.limits.Each:
		return c.limits.Bytes
	}
	return c.limits.Bytes - c.copied
}

// beginAnswer decides what is copied of the message that begins. It fails with a reason to pass the call over.
func (t *Tap) beginAnswer(c *call) string {
	m := &c.out
	if !m.wellFormed() {
		return PassedMalformed
	}
	if c.asked && c.limits.Each && c.limits.Wanted != nil && !c.limits.Wanted() {
		return ""
	}
	n, most := m.size(), m.wire(c.left())
	if m.cut = n > most; m.cut {
		if !c.asked {
			return PassedEarly
		}
		n = most
	}
	if c.truncated || m.cut && n == 0 {
		return "" // what follows a cut is not the head of the answer
	}
	if !t.charge(c, int(n)+messageRecord) {
		if !c.limits.Each {
			return PassedMemory
		}
		t.cfg.Passed(PassedMemory) // this message; the next one may fit again
		return ""
	}
	m.keep, m.buf = true, make([]byte, 0, n)
	return ""
}

// endAnswer takes the message that is whole. It fails with a reason to pass the call over.
func (t *Tap) endAnswer(c *call) (why string) {
	m := c.out
	c.out = message{}
	if !m.keep {
		c.truncated = c.truncated || m.cut && !c.limits.Each
		return ""
	}
	if m.compressed() && len(m.buf) > 0 {
		m.buf, m.cut, why = t.decompress(c, c.outCoding, m.buf, c.left(), m.cut)
	}
	switch {
	case why != "" && c.limits.Each:
		t.refund(c, messageRecord)
		t.cfg.Passed(why)
		return ""
	case why == "" && m.cut && !c.asked:
		return PassedEarly
	case why == "":
		t.answered(c, m.buf, m.cut)
	}
	return why
}

// decompress replaces a copy of a message, and its charge. It fails with a reason to pass it over.
func (t *Tap) decompress(c *call, coding encoding, src []byte, room int, cut bool) (data []byte, isCut bool, why string) {
	why = PassedCompressed
	if coding == gzipped {
		data, isCut, why = t.gunzip(c, src, room, cut)
	}
	t.refund(c, cap(src))
	return data, isCut, why
}

// answered has an answer message, that may have been held back while it was not known what is wanted.
func (t *Tap) answered(c *call, data []byte, cut bool) {
	charged := cap(data) + messageRecord
	if left := c.left(); len(data) > left {
		data, cut = data[:left:left], true
	}
	switch {
	case !c.asked:
		c.responses = append(c.responses, data)
		c.copied += len(data)
	case c.limits.Each:
		one := t.result(c)
		one.Responses, one.Truncated, one.Code, one.Message, one.Final = [][]byte{data}, cut, -1, "", false
		t.cfg.Observer.Observe(one)
		t.refund(c, charged)
	case c.truncated:
	default:
		c.truncated = cut
		if len(data) > 0 || !cut {
			c.responses = append(c.responses, data)
			c.copied += len(data)
		}
	}
}
