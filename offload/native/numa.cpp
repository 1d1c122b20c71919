#include "offload/native/numa.hpp"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace kvatlas {
namespace {

constexpr int kNodesMax = 64;  // that fit into the one word given to mbind
constexpr int kPreferred = 1;  // MPOL_PREFERRED of linux/mempolicy.h

// "0-3,8,10-11"; false: something else. Numbers beyond what a cpu_set_t holds are left out.
bool read_list(const std::string& text, std::vector<int>& out) {
  std::istringstream ranges(text);
  for (std::string range; std::getline(ranges, range, ',');) {
    char* end = nullptr;
    const long first = std::strtol(range.c_str(), &end, 10);
    if (end == range.c_str() || first < 0) return false;
    long last = first;
    if (*end == '-') last = std::strtol(end + 1, &end, 10);
    if (*end != 0) return false;
    for (long cpu = first; cpu <= last && cpu < CPU_SETSIZE; ++cpu) out.push_back(static_cast<int>(cpu));
  }
  return true;
}

}  // namespace

int numa_node_of_pci(const std::string& address, const std::string& sysfs) {
  std::string name;
  for (const char c : address) {
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0 && c != ':' && c != '.') return -1;  // no path of somebody's choice
    name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (name.find(':') == std::string::npos) return -1;
  std::ifstream file(sysfs + "/bus/pci/devices/" + name + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

std::vector<int> cpus_of_node(int node, const std::string& sysfs) {
  std::vector<int> cpus;
  if (node < 0) return cpus;
  std::ifstream file(sysfs + "/devices/system/node/node" + std::to_string(node) + "/cpulist");
  std::string text;
  if (!std::getline(file, text) || !read_list(text, cpus)) cpus.clear();
  return cpus;
}

bool pin_to(const std::vector<int>& cpus) {
  cpu_set_t allowed, wanted;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
  CPU_ZERO(&wanted);
  bool any = false;
  for (const int cpu : cpus) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_SET(cpu, &wanted);
    any = true;
  }
  return any && sched_setaffinity(0, sizeof wanted, &wanted) == 0;
}

void prefer_node(void* memory, size_t bytes, int node) {
  if (node < 0 || node >= kNodesMax) return;
  const unsigned long mask = 1UL << node;
  syscall(SYS_mbind, memory, bytes, kPreferred, &mask, kNodesMax + 1, 0);
}

}  // namespace kvatlas
