// NUMA nodes as sysfs tells them: where a device is, which processors are near it.
//
// All of this is for speed: where something cannot be found out or done, nothing is, and the function says so.
//
// Thread safety: any thread.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace kvatlas {

// The node of a PCI device ("0000:3b:00.0", letters of either case); -1: not known, or the machine has one node only.
int numa_node_of_pci(const std::string& address, const std::string& sysfs = "/sys");
// Processors of a node, by number; none: no such node.
std::vector<int> cpus_of_node(int node, const std::string& sysfs = "/sys");
// Keeps the calling thread on those of `cpus` that it may use; false: none of them, or refused.
bool pin_to(const std::vector<int>& cpus);
// Asks that pages touched from now on come from the node. Nothing for a node below 0.
void prefer_node(void* memory, size_t bytes, int node);

}  // namespace kvatlas
