package apiserver_test

import (
	"os"
	"testing"
)

// TestMain is also the program that the benchmarks run as their client.
func TestMain(m *testing.M) {
	if order := os.Getenv(loadVariable); order != "" {
		os.Exit(loadMain(order))
	}
	os.Exit(m.Run())
}
