package controller

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// failureCount is how often the index of a pod had failed before it.
func failureCount(pod *corev1.Pod) int32 { return countIn(pod, batchv1.JobIndexFailureCountAnnotation) }

// ignoredCount is how often it had failed in a way that the Job's policy ignores.
func ignoredCount(pod *corev1.Pod) int32 {
	return countIn(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func allFailures(pod *corev1.Pod) int32 { return failureCount(pod) + ignoredCount(pod) }

func countIn(pod *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(pod.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}

func indexOf(pod *corev1.Pod) (int, bool) {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	return n, err == nil && n >= 0
}

// indexesOf reads "0,2-4"; what is not of that form is left out.
func indexesOf(text string) map[int]bool {
	set := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if ranged && err == nil {
			last, err = strconv.Atoi(to)
		}
		for i := first; err == nil && i <= last; i++ {
			set[i] = true
		}
	}
	return set
}

// printIndexes is indexesOf backwards; from three in a row on as a range, as Kubernetes writes it.
func printIndexes(set map[int]bool) string {
	all := make([]int, 0, len(set))
	for i := range set {
		all = append(all, i)
	}
	slices.Sort(all)
	var parts []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch {
		case j == i:
			parts = append(parts, strconv.Itoa(all[i]))
		case j == i+1:
			parts = append(parts, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
