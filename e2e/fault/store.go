package fault

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// openTimeout is how long the lock of the database is tried: etcd holds it as
// long as it runs.
const openTimeout = time.Second

// tombstoneMark is the 18th byte of the bbolt key of a deletion.
const tombstoneMark = 't'

// The names are those of etcd's server/storage/schema.
var (
	keyBucket            = []byte("key")
	metaBucket           = []byte("meta")
	leaseBucket          = []byte("lease")
	consistentIndexField = []byte("consistent_index")
)

// revision is where a record stands in bucket key: 8 bytes main, '_', 8 bytes
// sub, and 't' for a tombstone (server/storage/mvcc/revision.go).
type revision struct {
	main, sub int64
	tombstone bool
}

func parseRevision(b []byte) (revision, error) {
	tombstone := len(b) == 18 && b[17] == tombstoneMark
	if len(b) != 17 && !tombstone || b[8] != '_' {
		return revision{}, fmt.Errorf("bucket key has a key %x that is no revision", b)
	}
	return revision{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:])), tombstone}, nil
}

func (r revision) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(r.main))
	b = binary.BigEndian.AppendUint64(append(b, '_'), uint64(r.sub))
	if r.tombstone {
		b = append(b, tombstoneMark)
	}
	return b
}

// record is one entry of bucket key. A tombstone's value has only its key.
type record struct {
	revision
	kv *mvccpb.KeyValue
}

// store is bucket key within one bbolt transaction. The databases of tests are
// small: every edit looks at all records.
type store struct {
	bucket  *bbolt.Bucket
	records []record // ascending by revision
}

// editDB changes the database of a stopped member in one transaction.
func editDB(path string, edit func(*bbolt.Tx) error) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("database of a member: %w", err) // bbolt would create it
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: openTimeout,
		// As etcd opens it; otherwise bbolt adds a freelist to the file.
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return fmt.Errorf("open %s, stop its member first: %w", path, err)
	}
	if err := db.Update(edit); err != nil {
		return fmt.Errorf("edit %s: %w, %w", path, err, db.Close())
	}
	return db.Close()
}

// editKeys changes bucket key of a stopped member in one transaction.
func editKeys(path string, edit func(*store) error) error {
	return editDB(path, func(tx *bbolt.Tx) error {
		s := &store{bucket: tx.Bucket(keyBucket)}
		if s.bucket == nil {
			return fmt.Errorf("no bucket %q: is it the database of an etcd member", keyBucket)
		}
		err := s.bucket.ForEach(func(k, v []byte) error {
			at, err := parseRevision(k)
			if err != nil {
				return err
			}
			kv := &mvccpb.KeyValue{}
			if err := proto.Unmarshal(v, kv); err != nil {
				return fmt.Errorf("record %d/%d: %w", at.main, at.sub, err)
			}
			s.records = append(s.records, record{at, kv})
			return nil
		})
		if err != nil {
			return err
		}
		if len(s.records) == 0 {
			return fmt.Errorf("no records: write a key before, and stop the member with SIGTERM")
		}
		return edit(s)
	})
}

// of returns the records of a key, ascending.
func (s *store) of(key string) []record {
	var found []record
	for _, r := range s.records {
		if string(r.kv.Key) == key {
			found = append(found, r)
		}
	}
	return found
}

// live returns the newest record of a key that exists.
func (s *store) live(key string) (record, error) {
	all := s.of(key)
	if len(all) == 0 {
		return record{}, fmt.Errorf("key %q has no record: it was never written, or the member was killed before it wrote it down", key)
	}
	newest := all[len(all)-1]
	if newest.tombstone {
		return record{}, fmt.Errorf("key %q is deleted at revision %d", key, newest.main)
	}
	return newest, nil
}

func (s *store) newest() record { return s.records[len(s.records)-1] }

func (s *store) put(r record) error {
	value, err := proto.Marshal(r.kv)
	if err != nil {
		return err
	}
	return s.bucket.Put(r.bytes(), value)
}

// remove deletes records, but not all of the newest revision: the member's
// revision would be lower after its restart, another fault than the one asked for.
func (s *store) remove(gone []record) error {
	removed := make(map[revision]bool)
	for _, r := range gone {
		removed[r.revision] = true
	}
	newest := s.newest().main
	kept := false
	for _, r := range s.records {
		kept = kept || r.main == newest && !removed[r.revision]
	}
	if !kept {
		return fmt.Errorf("the newest revision %d would go, and the member's revision with it: write another key first, or use DropNewest", newest)
	}
	return s.delete(gone)
}

func (s *store) delete(gone []record) error {
	for _, r := range gone {
		if err := s.bucket.Delete(r.bytes()); err != nil {
			return err
		}
	}
	return nil
}
