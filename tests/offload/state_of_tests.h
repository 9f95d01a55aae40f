// A small table of state, kept on a disk.
#pragma once

#include "offload/offloaded_state.h"
#include "tests/offload/disk_of_tests.h"

namespace thimble::testing {

/// Keeps some of everything: values by element, by row and for all, and updates nothing.
class IdleOptimizer final : public Optimizer {
 public:
  OptimizerNeed needs(const ParamInfo&) const override { return {}; }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return {element_slot("moment", DType::kF32, info), row_slot("rows", DType::kU8, info, 5),
            shared_slot("numbers", DType::kF32, Shape{7})};
  }
  void round(int, const UpdateArgs&, const RoundSums&, RoundSums&) const override {}
};

class TestTable {
 public:
  explicit TestTable(const StateFormats& formats, int ranks = 1) {
    const auto add = [&](const char* name, const Shape& shape) {
      params_.add({.name = name, .shape = shape});
    };
    add("matrix", {40, 33});
    add("wide", {3, 700});
    add("vector", {1001});
    add("one", {1});
    add("big", {3000, 16});
    table_.emplace(params_, optimizer_, formats, [&, ranks](ParamId id) {
      return RowPartition{.rows = params_.info(id).storage_shape()[0], .ranks = ranks};
    });
  }
  TestTable(const TestTable&) = delete;
  TestTable& operator=(const TestTable&) = delete;

  const StateTable& operator*() const { return *table_; }
  const StateTable* operator->() const { return &*table_; }
  const Optimizer& optimizer() const { return optimizer_; }

  /// What a rank keeps on disk, one array after another across the end of a run of the file.
  std::vector<TestArray> arrays(int rank) const {
    std::vector<TestArray> arrays;
    std::int64_t at = kRunBytes - 3 * SlotDisk::kBlock;
    for (const StateEntry& entry : table_->entries()) {
      if (!OffloadHome::is_on_disk(entry)) continue;
      arrays.push_back({disk_key(*table_, entry), at, {entry.held(rank).size}});
      at = round_up(at + arrays.back().ends[0], SlotDisk::kBlock);
    }
    return arrays;
  }

  OffloadOptions options(const std::filesystem::path& directory, int rank,
                         std::int64_t window_bytes) const {
    std::vector<TestArray> all = arrays(rank);
    return {.disk = {.files = {.directory = directory,
                               .suffix = "",
                               .rank = rank,
                               .makes = true,
                               .maker = maker_of(all, 0),
                               .gather = alone},
                     .identity = "a run",
                     .slots = 2},
            .window_bytes = window_bytes,
            .least_window = least_window_bytes(*table_, optimizer_, rank, false),
            .queue_depth = 4,
            .recovered = {}};
  }

 private:
  ParamTable params_;
  IdleOptimizer optimizer_;
  std::optional<StateTable> table_;
};

inline std::span<std::byte> bytes_in(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.nbytes())};
}

}  // namespace thimble::testing
