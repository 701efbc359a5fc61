package controller

import (
	"container/heap"
	"iter"
	"time"
)

// alarm is work to be done at a time: a pod that will have been ready long enough, a rollout that will have taken too long.
type alarm struct {
	at         time.Time
	controller controller
	name       string
}

// alarms holds work for later, soonest first. Its zero value is ready.
type alarms struct{ heap alarmHeap }

func (a *alarms) set(al alarm) { heap.Push(&a.heap, al) }

// first is when the next alarm is due.
func (a *alarms) first() (time.Time, bool) {
	if len(a.heap) == 0 {
		return time.Time{}, false
	}
	return a.heap[0].at, true
}

// due takes out every alarm that is due: name and controller.
func (a *alarms) due(now time.Time) iter.Seq2[string, controller] {
	return func(yield func(string, controller) bool) {
		for len(a.heap) > 0 && !a.heap[0].at.After(now) {
			al := heap.Pop(&a.heap).(alarm)
			if !yield(al.name, al.controller) {
				return
			}
		}
	}
}

type alarmHeap []alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h alarmHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *alarmHeap) Push(x any)        { *h = append(*h, x.(alarm)) }
func (h *alarmHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
