// Package cli is the command line: one file a command, its flags in one struct. Data goes to stdout, progress and errors to
// stderr; an error is one line of what is wrong and one line of what to do. Below it nothing reads the environment.
package cli
