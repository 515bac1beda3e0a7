#include <cstdio>

int main() { std::puts("qlora 0.1.0"); }
