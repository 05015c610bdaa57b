// Reads objects, one JSON document a line, and prints for each what those who apply from Git make of its status:
// kstatus, which Flux waits by, and a health check in Lua, run as Argo CD runs it (health.lua is its argument).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	whole "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// One verdict: kstatus' word with what it says, and Argo CD's.
type verdict struct {
	Kstatus        string `json:"kstatus"`
	KstatusMessage string `json:"kstatusMessage"`
	Argo           string `json:"argo"`
	ArgoMessage    string `json:"argoMessage"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: gitops health.lua < objects")
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		object := map[string]any{}
		// As Kubernetes reads it: whole numbers stay whole.
		if err := whole.Unmarshal(lines.Bytes(), &object); err != nil {
			return fmt.Errorf("a line is no object: %w", err)
		}
		one, err := judge(object, string(script))
		if err != nil {
			return err
		}
		if err := out.Encode(one); err != nil {
			return err
		}
	}
	return lines.Err()
}

func judge(object map[string]any, script string) (verdict, error) {
	result, err := status.Compute(&unstructured.Unstructured{Object: object})
	if err != nil {
		return verdict{}, fmt.Errorf("kstatus: %w", err)
	}
	one := verdict{Kstatus: string(result.Status), KstatusMessage: result.Message}
	one.Argo, one.ArgoMessage, err = health(object, script)
	return one, err
}

// The libraries that Argo CD opens for a health check that asks for no others (util/lua/lua.go): base, table and
// string. The object is the global obj; the script returns a table with status and message.
func health(object map[string]any, script string) (string, string, error) {
	vm := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer vm.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString,
	} {
		if err := vm.CallByParam(lua.P{Fn: vm.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	vm.SetGlobal("obj", value(vm, object))
	if err := vm.DoString(script); err != nil {
		return "", "", fmt.Errorf("the health check failed: %w", err)
	}
	said, ok := vm.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the health check returned no table")
	}
	return said.RawGetString("status").String(), said.RawGetString("message").String(), nil
}

func value(vm *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case map[string]any:
		table := vm.NewTable()
		for key, one := range of {
			table.RawSetString(key, value(vm, one))
		}
		return table
	case []any:
		table := vm.NewTable()
		for _, one := range of {
			table.Append(value(vm, one))
		}
		return table
	case string:
		return lua.LString(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	case bool:
		return lua.LBool(of)
	default:
		return lua.LNil
	}
}
