// Package bench holds the benchmarks behind the README's figures; it has no code but its tests.
package bench
