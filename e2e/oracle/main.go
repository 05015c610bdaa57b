// The oracle: Istio's own verdicts, asked by lines.
//
// In: JSON lines on standard input, each a question. Out: one JSON line for each on standard output, in
// order. Nothing here decides anything: validate.go asks the CRDs and the webhook of the pinned Istio,
// resolve.go asks its PushContext, configure.go its generator of what Envoys are sent.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"istio.io/istio/pkg/log"
)

// question is one line in.
type question struct {
	// Op is validate, resolve or configure.
	Op string `json:"op"`
	// Object of validate: a DestinationRule, VirtualService or Sidecar as it goes to the API server.
	Object json.RawMessage `json:"object"`
	// World of resolve and configure.
	World world `json:"world"`
	// Clients of resolve and configure.
	Clients []client `json:"clients"`
}

// failure answers what is no question: the caller's mistake, never a verdict.
type failure struct {
	Error string `json:"error"`
}

func main() {
	// Standard output is for answers alone; whatever a library prints goes where people look.
	answers := os.Stdout
	os.Stdout = os.Stderr
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.NoneLevel)
	}
	if err := serve(os.Stdin, answers); err != nil {
		fmt.Fprintf(os.Stderr, "oracle: %v\n", err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	validator, err := newValidator()
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(in, 1<<20)
	answers := bufio.NewWriter(out)
	encoder := json.NewEncoder(answers)
	encoder.SetEscapeHTML(false)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := encoder.Encode(answer(validator, line)); err != nil {
				return err
			}
		}
		// Who waits for an answer before the next question must not wait for a full buffer.
		if lines.Buffered() == 0 || err != nil {
			if err := answers.Flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func answer(validator *validator, line []byte) any {
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return failure{fmt.Sprintf("no question: %v", err)}
	}
	var answered any
	var err error
	switch asked.Op {
	case "validate":
		answered, err = validator.validate(asked.Object)
	case "resolve":
		answered, err = resolve(asked.World, asked.Clients)
	case "configure":
		answered, err = configure(asked.World, asked.Clients)
	default:
		err = fmt.Errorf("op is %q: ask validate, resolve or configure", asked.Op)
	}
	if err != nil {
		return failure{err.Error()}
	}
	return answered
}
