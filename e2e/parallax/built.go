package parallax

import "context"

// StartBuilt is Start for a binary that is there already, of binary.Builder: for those to whom the time counts.
func StartBuilt(ctx context.Context, path string, opts Options) (*Process, error) {
	return start(ctx, path, opts)
}
