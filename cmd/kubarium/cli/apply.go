package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kubarium.dev/api"
)

// apply is kubectl's apply behind a check of the whole set: if one manifest is wrong, each mistake is told with its file, line
// and field, and nothing is changed. --programmed waits until what was applied is in effect everywhere.
func (a *app) apply(ctx context.Context, st state, words []string) error {
	words, barrier := take(words, "--programmed")
	files, recursive := fileArgs(words)
	if len(files) == 0 || slices.Contains(words, "--help") || slices.Contains(words, "-h") {
		return a.runKubectl(st, append([]string{"apply"}, words...))
	}
	set, err := a.readManifests(files, recursive)
	if err != nil {
		return err
	}
	c, err := st.client()
	if err != nil {
		return err
	}
	check := manifestCheck{
		client: c, namespace: flagValue(words, "-n", "--namespace"), server: serverSide(words), force: given(words, "--force"), set: set,
	}
	if problems := check.all(ctx); len(problems) > 0 {
		for _, p := range problems {
			fmt.Fprintln(a.err, "error: "+p)
		}
		fmt.Fprintln(a.err, "nothing was applied")
		return silent(exitFailed)
	}
	if err := a.applySet(st, words, set); err != nil {
		return err
	}
	for _, w := range check.warnings(ctx) {
		fmt.Fprintln(a.err, "warning: "+w)
	}
	if barrier {
		return st.programmed(ctx, defaultWait)
	}
	return nil
}

// applySet hands the words to kubectl. Standard input was read for the check, so it is handed on from memory: kubectl reads "-f -"
// from the process's own.
func (a *app) applySet(st state, words []string, set manifestSet) error {
	if set.stdin != nil {
		again, err := memoryFile(set.stdin)
		if err != nil {
			return err
		}
		defer again.Close()
		defer func(was *os.File) { os.Stdin = was }(os.Stdin)
		os.Stdin = again
	}
	return a.runKubectl(st, append([]string{"apply"}, words...))
}

// memoryFile is a file without a name that holds raw, to be read from its beginning.
func memoryFile(raw []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("keep standard input in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	if _, err := f.WriteAt(raw, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// manifestSet is what one apply names.
type manifestSet struct {
	manifests []api.Manifest
	stdin     []byte // what "-f -" read; nil if it was not asked for
}

func (a *app) readManifests(files []string, recursive bool) (manifestSet, error) {
	var set manifestSet
	for _, f := range files {
		if f == "-" {
			raw, err := io.ReadAll(a.in)
			if err != nil {
				return set, err
			}
			set.stdin = raw
			if err := set.read(bytes.NewReader(raw), "-"); err != nil {
				return set, err
			}
			continue
		}
		if strings.HasPrefix(f, "http://") || strings.HasPrefix(f, "https://") {
			continue // kubectl fetches it; the server checks it
		}
		if err := set.readPath(f, recursive); err != nil {
			return set, err
		}
	}
	return set, nil
}

// readPath reads a file, or the .yaml, .yml and .json files of a folder, as kubectl does.
func (set *manifestSet) readPath(path string, recursive bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return failf(exitNotFound, "check the name; -f takes a file, a folder, a URL or - for standard input", "the path %q does not exist", path)
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != path && !recursive:
			return filepath.SkipDir
		case d.IsDir() || info.IsDir() && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)):
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		return set.read(f, p)
	})
}

func (set *manifestSet) read(r io.Reader, name string) error {
	ms, err := api.ReadManifests(r, name)
	if err != nil {
		return err
	}
	set.manifests = append(set.manifests, ms...)
	return nil
}

// given tells whether a boolean flag is set.
func given(words []string, flag string) bool {
	return slices.Contains(words, flag) || slices.Contains(words, flag+"=true")
}

// take removes a boolean flag from the words and tells whether it was there.
func take(words []string, flag string) ([]string, bool) {
	i := slices.Index(words, flag)
	if i < 0 {
		return words, false
	}
	return slices.Delete(slices.Clone(words), i, i+1), true
}

// fileArgs finds the files that -f names, in every form pflag takes.
func fileArgs(words []string) (files []string, recursive bool) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		var value string
		switch {
		case w == "-R" || w == "--recursive" || w == "--recursive=true":
			recursive = true
			continue
		case (w == "-f" || w == "--filename") && i+1 < len(words):
			i++
			value = words[i]
		case strings.HasPrefix(w, "--filename="):
			value = strings.TrimPrefix(w, "--filename=")
		case strings.HasPrefix(w, "-f") && w != "-f":
			value = strings.TrimPrefix(strings.TrimPrefix(w, "-f"), "=")
		default:
			continue
		}
		files = append(files, strings.Split(value, ",")...)
	}
	return files, recursive
}

// flagValue is the value of a flag with a short and a long form; "" if it is not there.
func flagValue(words []string, short, long string) string {
	for i, w := range words {
		switch {
		case (w == short || w == long) && i+1 < len(words):
			return words[i+1]
		case strings.HasPrefix(w, long+"="):
			return strings.TrimPrefix(w, long+"=")
		case strings.HasPrefix(w, short) && !strings.HasPrefix(w, "--") && len(w) > len(short):
			return strings.TrimPrefix(strings.TrimPrefix(w, short), "=")
		}
	}
	return ""
}
