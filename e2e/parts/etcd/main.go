// Command etcd is the stock etcd server: its module keeps the command in a main package of another
// module that carries replace directives, so the four lines of it stand here.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
