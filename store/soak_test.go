//go:build soak

package store_test

import "testing"

// TestSoakKills is A-16 a thousand times over.
func TestSoakKills(t *testing.T) { killWriters(t, 1000) }
