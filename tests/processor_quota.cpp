// Prints the CPU quota of control groups: processors GROUPS ROOT (cpu/processors.h).
#include "cpu/processors.h"

#include <cstdio>

int main(int, char** arguments) {
  std::printf("%lld\n", static_cast<long long>(rnnfused::processor_quota(arguments[1], arguments[2])));
  return 0;
}
