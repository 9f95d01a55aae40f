// A memory plan or measurement as people and machines read it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/device/arena.h"

namespace thimble {

struct MemoryReport {
  std::vector<MemoryPeak> phases;  // in order of first appearance
  std::int64_t extent_bytes = 0;   // address space touched at most
  std::int64_t host_bytes = 0;     // address space of pinned host memory beside a GPU
  std::int64_t peak_bytes() const;
};

MemoryReport memory_report(Arena& arena);

/// A table: one row per tag, one column per phase, the total below.
std::string to_table(const MemoryReport& report);

/// (tag name, most bytes at any moment), tags that were used only.
std::vector<std::pair<std::string, std::int64_t>> peak_by_tag(const MemoryReport& report);

}  // namespace thimble
