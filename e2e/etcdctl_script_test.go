package e2e

import (
	"slices"
	"strings"
)

// etcdctlScript is what TestEtcdctl tells a fresh member: {lease} stands for the lease granted last.
func etcdctlScript() []step {
	return slices.Concat(keys(), failures(), transactions(), leases(), watches(), concurrency(), users(), members(), snapshots(), compactions())
}

func do(args ...string) step { return step{args: args} }

func live(args ...string) step { return step{args: args, live: true} }

func with(stdin string, args ...string) step { return step{args: args, stdin: stdin} }

func keys() []step {
	return []step{
		do("put", "k1", "v1"),
		do("put", "k1", "v2", "--prev-kv"),
		do("put", "k2", "two words\nand a line", "-w", "json"),
		do("put", "k3", "v3", "-w", "fields"),
		do("put", "other", "x"),
		with("from stdin", "put", "k4"),
		do("put", "k4", "--ignore-value", "--lease=0"),
		with("not \x00 \xff text", "put", "binary\xff"),
		do("put", "empty", ""),
		do("get", "k1"),
		do("get", "k1", "--rev=2", "-w", "json"),
		do("get", "k1", "--consistency=s", "-w", "json"),
		do("get", "k2", "--print-value-only"),
		do("get", "none"),
		do("get", "none", "-w", "json"),
		do("get", "binary\xff", "--hex"),
		do("get", "k", "--prefix"),
		do("get", "k", "--prefix", "--limit=2"),
		do("get", "k", "--prefix", "--limit=2", "-w", "json"),
		do("get", "k", "--prefix", "--keys-only"),
		do("get", "k", "--prefix", "--count-only", "-w", "fields"),
		do("get", "k", "--prefix", "--order=DESCEND", "--sort-by=MODIFY"),
		do("get", "k1", "k3"),
		do("get", "k2", "--from-key", "-w", "fields"),
		do("get", "k1", "-w", "protobuf"),
		do("get", "", "--prefix", "-w", "json"),
		do("del", "k4"),
		do("del", "k4"),
		do("del", "k2", "--prev-kv"),
		do("del", "k3", "-w", "json"),
		do("del", "b", "--prefix"),
	}
}

func failures() []step {
	const tooLarge = 1600 << 10 // more than the member takes, less than the client refuses to send
	return []step{
		do("get", "k1", "--rev=1000000"),
		do("put", "k", "v", "--lease=4d2"),
		do("put", "none", "--ignore-value"),
		do("put", "only-a-key", "too", "many"),
		do("get"),
		do("txn", "--no-such-flag"),
		with(strings.Repeat("v", tooLarge), "put", "too-large"),
		with(strings.Repeat("v", 3<<20), "put", "much-too-large"),
		do("lease", "revoke", "4d2"),
		do("lease", "timetolive", "4d2"),
		do("lease", "keep-alive", "--once", "4d2"),
		do("member", "remove", "4d2"),
		do("member", "promote", "4d2"),
		do("move-leader", "4d2"),
		do("user", "get", "nobody"),
		do("role", "get", "nobody"),
		do("auth", "enable"), // there is no root user
		do("compaction", "1000000"),
		do("get", "k1", "--command-timeout=1ns"),
	}
}

func transactions() []step {
	return []step{
		with("value(\"k1\") = \"v2\"\n\nput t1 yes\nget k1\ndel k1\n\nput t1 no\n\n", "txn"),
		with("value(\"k1\") = \"v2\"\n\nput t1 yes\n\nput t1 no\nget t1\n\n", "txn"),
		with("mod(\"t1\") > \"0\"\nver(\"none\") = \"0\"\n\nput t2 a\nput t3 b\nget t --prefix\n\n\n", "txn", "-w", "json"),
		with("\n\nput t4 a\nput t4 b\n\n", "txn"), // a duplicate key
		with("\nget t1 --rev=1000000\n\n\n", "txn"),
		with("\nget t1 --rev=1\n\n\n", "txn"),
		with("nonsense\n\n\n", "txn"),
	}
}

func leases() []step {
	return []step{
		do("lease", "list"),
		do("lease", "grant", "600"),
		do("put", "leased", "v", "--lease={lease}"),
		do("get", "leased", "-w", "json"),
		do("lease", "timetolive", "{lease}"),
		do("lease", "timetolive", "{lease}", "--keys", "-w", "json"),
		do("lease", "keep-alive", "--once", "{lease}"),
		{args: []string{"lease", "keep-alive", "{lease}"}, feed: []feed{{until: "keepalived"}}},
		do("lease", "list"),
		do("lease", "list", "-w", "json"),
		do("lease", "revoke", "{lease}"),
		do("lease", "revoke", "{lease}"),
		do("get", "leased"),
	}
}

func watches() []step {
	return []step{
		do("put", "w1", "one"),
		do("put", "w1", "two"),
		do("del", "w1"),
		do("put", "w2", "the end"),
		{args: []string{"watch", "w", "--prefix", "--rev=1"}, feed: []feed{{until: "the end"}}},
		{args: []string{"watch", "w", "--prefix", "--rev=2", "--prev-kv"}, feed: []feed{{until: "the end"}}},
		{args: []string{"watch", "w1", "w3", "--rev=2", "--prev-kv", "-w", "json"}, feed: []feed{{until: "dGhlIGVuZA=="}}},
		{args: []string{"watch", "live", "--rev=2"}, feed: []feed{{run: []string{"put", "live", "now it comes"}, until: "now it comes"}}},
		{args: []string{"watch", "w2", "--rev=2", "--", "sh", "-c", "echo seen $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"}, feed: []feed{{until: "seen"}}},
		{args: []string{"watch", "-i", "--rev=2"}, feed: []feed{
			{send: "watch live --rev=2\n", until: "now it comes"},
			{send: "progress\n", until: "progress notify"},
			{send: "watch w2 --rev=2\n", until: "the end"},
		}},
	}
}

func concurrency() []step {
	return []step{
		do("lock", "lock", "echo", "locked"),
		{args: []string{"elect", "election", "me"}, feed: []feed{{until: "me\n"}}},
		do("elect", "-l", "--command-timeout=1s", "no-election", "--no-such-flag"),
	}
}

func users() []step {
	return []step{
		do("user", "list"),
		do("role", "list"),
		do("auth", "status"),
		do("user", "add", "u1:secret"),
		do("user", "add", "u1:secret"),
		do("role", "add", "r1"),
		do("role", "grant-permission", "r1", "readwrite", "k", "--prefix"),
		do("user", "grant-role", "u1", "r1"),
		do("user", "get", "u1"),
		do("role", "get", "r1"),
		do("user", "list", "-w", "json"),
		do("get", "k1", "--user=u1:secret"), // auth is not on
		do("user", "delete", "u1"),
		do("role", "delete", "r1"),
	}
}

func members() []step {
	return []step{
		do("member", "list"),
		do("member", "list", "-w", "json"),
		do("member", "list", "-w", "table"),
		live("endpoint", "status"),
		live("endpoint", "status", "-w", "json"),
		live("endpoint", "status", "-w", "table"),
		live("endpoint", "hashkv"),
		live("endpoint", "hashkv", "-w", "json", "--rev=5"),
		do("endpoint", "health"),
		do("endpoint", "health", "-w", "json"),
		do("endpoint", "health", "--cluster"),
		do("alarm", "list"),
		do("alarm", "disarm"),
		do("defrag"),
	}
}

// snapshots are of several MiB, of what does not compress.
func snapshots() []step {
	var steps []step
	for _, name := range []string{"a", "b", "c", "d"} {
		steps = append(steps, with(noise(1<<20), "put", "large-"+name))
	}
	return append(steps,
		do("get", "large", "--prefix", "--print-value-only"),
		live("snapshot", "save", "snapshot.db"),
	)
}

// noise is always the same.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = 'a' + byte(x>>24)%26
	}
	return string(b)
}

func compactions() []step {
	return []step{
		do("compaction", "5"),
		do("compaction", "5"),
		do("compaction", "6", "--physical"),
		do("get", "k1", "--rev=5"),
		do("get", "k1", "--rev=6"),
		with("\nget t1 --rev=2\n\n\n", "txn"),
		do("watch", "w1", "--rev=2"),
		do("watch", "w1", "--rev=2", "-w", "json"),
		live("endpoint", "hashkv", "--rev=2"),
		do("del", "large", "larger", "--range"),
		do("get", "", "--prefix", "--count-only", "-w", "fields"),
	}
}
