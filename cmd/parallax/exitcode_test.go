package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

func exitCode() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	command := exec.Command(os.Args[2], os.Args[3:]...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	err = command.Run()
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		got = -1
	}
	if got != want {
		fmt.Fprintf(os.Stderr, "exit code %d, want %d (%v)\n", got, want, err)
		os.Exit(1)
	}
}
