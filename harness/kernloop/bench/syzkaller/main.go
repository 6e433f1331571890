// SPDX-License-Identifier: Apache-2.0

// Command bench times syzkaller's parser of console logs for `kernloop bench report --against`.
//
//	bench lines FILE      whether a line is of a crash, line by line
//	bench all FILE...     all reports of each file
//
// It prints one JSON object: bytes, what was found, CPU and wall seconds.
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/google/syzkaller/pkg/mgrconfig"
	"github.com/google/syzkaller/pkg/report"
	"github.com/google/syzkaller/sys/targets"
)

type result struct {
	Bytes int     `json:"bytes"`
	Found int     `json:"found"`
	CPU   float64 `json:"cpu"`
	Wall  float64 `json:"wall"`
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: bench lines|all FILE...")
	}
	reporter, err := report.NewReporter(&mgrconfig.Config{Derived: mgrconfig.Derived{
		TargetOS:   targets.Linux,
		TargetArch: targets.AMD64,
		SysTarget:  targets.Get(targets.Linux, targets.AMD64),
	}})
	if err != nil {
		log.Fatal(err)
	}
	var logs [][]byte
	for _, name := range os.Args[2:] {
		data, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		logs = append(logs, data)
	}
	parse := map[string]func([]byte) int{
		"lines": func(data []byte) int {
			found := 0
			for len(data) > 0 {
				line, rest, _ := bytes.Cut(data, []byte("\n"))
				if reporter.ContainsCrash(line) {
					found++
				}
				data = rest
			}
			return found
		},
		"all": func(data []byte) int { return len(report.ParseAll(reporter, data)) },
	}[os.Args[1]]
	if parse == nil {
		log.Fatalf("there is no %q", os.Args[1])
	}
	var sum result
	began, before := time.Now(), used()
	for _, data := range logs {
		sum.Bytes += len(data)
		sum.Found += parse(data)
	}
	sum.CPU, sum.Wall = used()-before, time.Since(began).Seconds()
	if err := json.NewEncoder(os.Stdout).Encode(sum); err != nil {
		log.Fatal(err)
	}
}

// CPU seconds of this process, the garbage collector's included.
func used() float64 {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		log.Fatal(err)
	}
	return float64(use.Utime.Nano()+use.Stime.Nano()) / 1e9
}
