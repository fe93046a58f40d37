package tap

import (
	"strings"

	"golang.org/x/net/http2"
)

// What HTTP/2 forbids, or exceeds the tap's bounds, ends the tap.
var violations = []story{
	{name: "an even stream id from the client", tell: func(k *talk) { k.open(2, get) }, ended: ReasonStreamID},
	{name: "DATA on a stream that was not opened", tell: func(k *talk) { k.data(Up, 1, false, nil); k.data(Up, 1, true, nil) }, ended: ReasonStreamID},
	{name: "RST_STREAM of a stream that was not opened", tell: func(k *talk) { k.reset(Up, 1) }, ended: ReasonStreamID},
	{name: "DATA on stream 0", tell: func(k *talk) { k.data(Up, 0, false, frame("x")) }, ended: ReasonFrame},
	{name: "a padding longer than its frame", tell: func(k *talk) {
		k.open(1, get)
		k.say(Up, func(f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{5, 1, 2, 3, 4})
		})
	}, ended: ReasonFrame},
	{name: "a frame too short for its padding", tell: func(k *talk) {
		k.say(Up, func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, nil) })
	}, ended: ReasonFrame},
	{name: "CONTINUATION of nothing", tell: func(k *talk) {
		k.say(Up, func(f *http2.Framer) error { return f.WriteContinuation(1, true, nil) })
	}, ended: ReasonFrame},
	{name: "something else between HEADERS and CONTINUATION", tell: func(k *talk) {
		k.say(Up, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil})
		})
		k.say(Up, func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}, ended: ReasonFrame},
	{name: "RST_STREAM of a wrong length", tell: func(k *talk) {
		k.say(Up, func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameRSTStream, 0, 1, make([]byte, 5)) })
	}, ended: ReasonFrame},
	{name: "GOAWAY too short", tell: func(k *talk) {
		k.say(Down, func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) })
	}, ended: ReasonFrame},
	{name: "PUSH_PROMISE", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.say(Down, func(f *http2.Framer) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2})
		})
	}, ended: ReasonPush},
	{name: "a header block that is not HPACK", tell: func(k *talk) {
		k.say(Up, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff}, EndHeaders: true})
		})
	}, ended: ReasonHPACK},
	{name: "a header block that is too large as it is sent", tell: func(k *talk) {
		k.headers(Up, 1, false, ":path", get, "a", strings.Repeat("é", maxBlock/2-8), "b", strings.Repeat("é", maxBlock/2))
	}, ended: ReasonMemory},
	{name: "a header block that is too large when decoded", tell: func(k *talk) {
		kv := []string{":path", get}
		for range 100 {
			kv = append(kv, "in-the-table", strings.Repeat("a", 3000)) // two bytes each, from the second on
		}
		k.headers(Up, 1, false, kv...)
	}, ended: ReasonMemory},
	{name: "an answer in HTTP/1.1", tell: func(k *talk) {
		k.steps = k.steps[:2]
		k.raw(Down, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	}, ended: ReasonNotHTTP2},
}
