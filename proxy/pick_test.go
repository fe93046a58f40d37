package proxy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEndpointsTakeTurns(t *testing.T) {
	abc := []string{"a", "b", "c"}
	for _, tc := range []struct {
		name   string
		health map[string]Health
		want   [][]string
	}{
		{"nothing is known", nil,
			[][]string{{"a", "b", "c"}, {"b", "c", "a"}, {"c", "a", "b"}, {"a", "b", "c"}}},
		{"what is unknown changes nothing", map[string]Health{"a": Serving, "b": Unknown, "c": Serving},
			[][]string{{"a", "b", "c"}, {"b", "c", "a"}, {"c", "a", "b"}}},
		{"an unfit one comes last, and its neighbor gets no double share", map[string]Health{"b": Unfit},
			[][]string{{"a", "c", "b"}, {"c", "a", "b"}, {"a", "c", "b"}, {"c", "a", "b"}}},
		{"all unfit is as good as nothing known", map[string]Health{"a": Unfit, "b": Unfit, "c": Unfit},
			[][]string{{"a", "b", "c"}, {"b", "c", "a"}, {"c", "a", "b"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r rotation
			for i, want := range tc.want {
				got := r.next(abc, nil, func(e string) Health { return tc.health[e] })
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("connection %d: (-want +got)\n%s", i, diff)
				}
			}
		})
	}
	t.Run("no health function", func(t *testing.T) {
		var r rotation
		if diff := cmp.Diff(abc, r.next(abc, nil, nil)); diff != "" {
			t.Error(diff)
		}
	})
}

// Whatever health says: every endpoint is tried, once, and none that is unfit before one that is not.
func TestNoEndpointIsEverLeftOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		endpoints := rapid.SliceOfNDistinct(rapid.StringN(1, 3, 3), 1, 7, rapid.ID[string]).Draw(t, "endpoints")
		var r rotation
		for range rapid.IntRange(1, 20).Draw(t, "connections") {
			health := map[string]Health{}
			for _, e := range endpoints {
				health[e] = Health(rapid.IntRange(int(Unknown), int(Unfit)).Draw(t, "health"))
			}
			got := r.next(endpoints, nil, func(e string) Health { return health[e] })
			if a, b := slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(endpoints)); !slices.Equal(a, b) {
				t.Fatalf("tried %q of %q", got, endpoints)
			}
			if !slices.IsSortedFunc(got, func(a, b string) int {
				return btoi(health[a] == Unfit) - btoi(health[b] == Unfit)
			}) {
				t.Fatalf("an unfit endpoint before a fit one: %q, health %v", got, health)
			}
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
