package image

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// untar writes an archive's files into a folder that is made for them, and returns their size. Nothing gets out of the folder:
// neither by .. nor by a link that an entry before has made. Devices are left out.
func untar(r io.Reader, dir string) (size int64, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		path := strings.TrimPrefix(filepath.Clean("/"+h.Name), "/")
		if path == "" {
			continue
		}
		if err := entry(root, path, h, archive); err != nil {
			return size, fmt.Errorf("unpack %s: %w", h.Name, err)
		}
		size += h.Size
	}
}

func entry(root *os.Root, path string, h *tar.Header, content io.Reader) error {
	if parent := filepath.Dir(path); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		root.Remove(path)
		if err := root.Symlink(h.Linkname, path); err != nil {
			return err
		}
		own(root, path, h)
		return nil
	case tar.TypeLink:
		root.Remove(path)
		return root.Link(strings.TrimPrefix(filepath.Clean("/"+h.Linkname), "/"), path)
	default:
		return nil
	}
	own(root, path, h)
	return root.Chmod(path, mode.Perm()|mode&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
}

// own gives a file to its owner. An ordinary user's cluster has one user: there everything is his.
func own(root *os.Root, path string, h *tar.Header) {
	root.Lchown(path, h.Uid, h.Gid)
}

// findUser looks the image's user up in its own files.
func (i *Image) findUser(root string) error {
	user, group, grouped := strings.Cut(i.User, ":")
	if user == "" {
		return nil
	}
	if line := lookUp(root, "etc/passwd", user); len(line) > 5 {
		uid, err := strconv.ParseUint(line[2], 10, 32)
		gid, err2 := strconv.ParseUint(line[3], 10, 32)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		i.UID, i.GID, i.Home = uint32(uid), uint32(gid), line[5]
	} else if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		i.UID = uint32(uid)
	} else {
		return fmt.Errorf("unable to find user %s: no matching entries in passwd file", user)
	}
	if !grouped {
		return nil
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if line := lookUp(root, "etc/group", group); len(line) > 2 {
		gid, err = strconv.ParseUint(line[2], 10, 32)
	}
	i.GID = uint32(gid)
	return err
}

// lookUp finds the line of a name or a number in a file like /etc/passwd.
func lookUp(root, path, word string) []string {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer r.Close()
	f, err := r.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) > 2 && (fields[0] == word || fields[2] == word) {
			return fields
		}
	}
	return nil
}
