// Stores that do everything that their interfaces allow: they keep bytes elsewhere, are late, hand
// out memory that is poisoned before and after, take what was written only by the access of its
// use, show weights only while they are pinned, and fail when told.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string_view>

#include "core/nn/weight_store.h"
#include "core/ops/ops.h"
#include "train/train_engine.h"

namespace thimble {

/// What a hostile state store saw, and what it is to do. Of one rank.
struct HostileRecord {
  int acquired = 0, unannounced = 0, out_of_order = 0;
  std::vector<std::int64_t> commits;
  std::int64_t leased_bytes = 0, most_leased = 0;  // at once
  int fail_acquire = 0, fail_release = 0;          // at this one, from 1; 0: never
};

using HostBytes = std::vector<std::byte>;

inline HostBytes bytes_of(const Tensor& tensor) {
  HostBytes bytes(static_cast<std::size_t>(tensor.nbytes()));
  if (!tensor.device().planning) ops::to_host(bytes.data(), tensor);
  return bytes;
}
inline void set_bytes(const Tensor& tensor, const void* from) {
  if (!tensor.device().planning && tensor.nbytes() > 0) ops::from_host(tensor, from);
}
inline void poison(const Tensor& tensor) {
  set_bytes(tensor, HostBytes(static_cast<std::size_t>(tensor.nbytes()), std::byte{0xFF}).data());
}

/// The same bytes in pages that cannot be written.
inline Tensor in_read_only_pages(const Tensor& tensor) {
  const auto size = static_cast<std::size_t>(tensor.nbytes()) + 1;  // some, even of no bytes
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TH_CHECK(at != MAP_FAILED);
  std::memcpy(at, tensor.raw(), size - 1);
  ::mprotect(at, size, PROT_READ);
  return Tensor::wrap(at, tensor.dtype(), tensor.shape());
}

class HostileState final : public StateStore {
 public:
  static constexpr std::int64_t kWindow = 600;

  HostileState(Arena& arena, const StateTable& table, int rank,
               std::shared_ptr<HostileRecord> record)
      : arena_(arena), table_(table), rank_(rank), record_(std::move(record)) {}

  void create(StateId id) override {
    settle();
    bytes_[id].assign(static_cast<std::size_t>(table_[id].held(rank_).size), std::byte{});
  }
  void erase(StateId id) override {
    settle();
    EXPECT_EQ(bytes_.erase(id), 1u) << table_[id].slot.name << " was not there";
  }
  std::int64_t window_bytes() const override { return kWindow; }
  void announce(std::span<const StateUse> order) override {
    order_.assign(order.begin(), order.end());
  }

  StateLease acquire(const StateUse& use) override {
    check();
    settle();
    note(use);
    const StateEntry& entry = table_[use.id];
    const std::span<std::byte> kept = range(use);
    const bool for_cpu = use.on_cpu || entry.tier == StateTier::kHost;
    const Tensor tensor =
        Tensor::empty(for_cpu ? arena_.pinned() : arena_, entry.tag, entry.slot.dtype,
                      entry.slot.piece(use.rows), entry.slot.name);
    EXPECT_EQ(static_cast<std::size_t>(tensor.nbytes()), kept.size());
    if (use.access == StateAccess::kOverwrite) {
      poison(tensor);
    } else {
      set_bytes(tensor, kept.data());
    }
    record_->leased_bytes += tensor.nbytes();
    record_->most_leased = std::max(record_->most_leased, record_->leased_bytes);
    const bool on_cpu = tensor.device().kind == DeviceKind::kCpu && !tensor.device().planning;
    if (use.access != StateAccess::kRead || !on_cpu) return {*this, use, tensor};
    const Tensor pages = in_read_only_pages(tensor);
    behind_.emplace(pages.raw(), tensor);  // as much as the plan has
    return {*this, use, pages};
  }
  void release(const StateUse& use, const Tensor& tensor) noexcept override {
    record_->leased_bytes -= tensor.nbytes();
    if (++released_ == record_->fail_release) failed_ = true;
    if (behind_.erase(tensor.raw()) > 0) {
      ::munmap(tensor.raw(), static_cast<std::size_t>(tensor.nbytes()) + 1);
      return;
    }
    HostBytes now = bytes_of(tensor);
    poison(tensor);
    if (tensor.device().planning) return;
    if (use.access != StateAccess::kRead) {
      late_.push_back({use, std::move(now)});
      return;
    }
    const std::span<const std::byte> kept = range(use);
    EXPECT_TRUE(std::equal(now.begin(), now.end(), kept.begin(), kept.end()))
        << table_[use.id].slot.name << " was only to be read";
  }
  void commit(std::int64_t step) override {
    check();
    settle();
    EXPECT_EQ(record_->leased_bytes, 0);
    record_->commits.push_back(step);
  }

 private:
  struct Late {
    StateUse use;
    HostBytes bytes;
  };
  void check() {
    if (std::exchange(failed_, false)) throw SystemError("the hostile store lost what it got");
  }
  void settle() {
    for (const Late& late : late_) {
      const std::span<std::byte> kept = range(late.use);
      std::copy(late.bytes.begin(), late.bytes.end(), kept.begin());
    }
    late_.clear();
  }
  void note(const StateUse& use) {
    EXPECT_NE(use.access, StateAccess::kNone);
    if (++record_->acquired == record_->fail_acquire)
      throw SystemError("the hostile store cannot bring it");
    if (order_.empty()) {
      ++record_->unannounced;
      return;
    }
    if (order_.front() != use) ++record_->out_of_order;
    order_.pop_front();
  }
  // What is kept of the rows.
  std::span<std::byte> range(const StateUse& use) {
    const StateEntry& entry = table_[use.id];
    const auto found = bytes_.find(use.id);
    TH_CHECK(found != bytes_.end(), "no state {}", entry.slot.name);
    const ByteRange wanted = entry.range(use.rows), held = entry.held(rank_);
    TH_CHECK(wanted.begin >= held.begin && wanted.end() <= held.end());
    return std::span(found->second)
        .subspan(static_cast<std::size_t>(wanted.begin - held.begin),
                 static_cast<std::size_t>(wanted.size));
  }

  Arena& arena_;
  const StateTable& table_;
  int rank_;
  std::shared_ptr<HostileRecord> record_;
  std::map<StateId, HostBytes> bytes_;
  std::deque<StateUse> order_;
  std::vector<Late> late_;
  std::map<const void*, Tensor> behind_;  // read-only pages
  int released_ = 0;
  bool failed_ = false;
};

/// Around a store of any kind.
class HostileWeights final : public WeightStore {
 public:
  HostileWeights(Arena& arena, std::vector<std::vector<ParamId>> blocks,
                 std::unique_ptr<WeightStore> home)
      : arena_(arena), blocks_(std::move(blocks)), home_(std::move(home)), pins_(blocks_.size()) {}

  const ParamTable& params() const override { return home_->params(); }
  void prefetch(BlockId block) override { home_->prefetch(block); }
  void pin_block(BlockId block) override {
    home_->pin_block(block);
    ++pins_.at(static_cast<std::size_t>(block));
  }
  void unpin_block(BlockId block) override {
    home_->unpin_block(block);
    --pins_.at(static_cast<std::size_t>(block));
    for (const ParamId id : blocks_.at(static_cast<std::size_t>(block))) {
      const auto found = shown_.find(id);
      if (found == shown_.end() || is_pinned(id)) continue;
      poison(found->second);
      shown_.erase(found);
    }
  }
  Tensor view(ParamId id) override {
    TH_CHECK(is_pinned(id), "{} is not pinned", params().info(id).name);
    if (const auto found = shown_.find(id); found != shown_.end()) return found->second;
    const Tensor there = home_->view(id);
    const Tensor shown =
        Tensor::empty(arena_, MemoryTag::kWeights, there.dtype(), there.shape(), "shown");
    ops::copy(shown, there);
    shown_.emplace(id, shown);
    return shown;
  }
  Tensor prepacked(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId id) const override { return home_->version(id); }
  void changed(ParamId id) override { home_->changed(id); }
  void publish() override { home_->publish(); }
  bool stays_in_place() const override { return false; }

  void announce(std::span<const StateUse> order) override { home_->announce(order); }
  std::int64_t window_bytes() const override { return HostileState::kWindow; }
  StateLease acquire(const StateUse& use) override {
    StateLease lease = home_->acquire(use);
    const Tensor& there = lease.tensor();
    Arena& where = there.device().kind == DeviceKind::kCpu ? arena_.pinned() : arena_;
    const Tensor copy =
        Tensor::empty(where, MemoryTag::kWeights, there.dtype(), there.shape(), "leased");
    set_bytes(copy, bytes_of(there).data());
    if (use.access == StateAccess::kOverwrite) poison(copy);
    leases_.emplace(copy.raw(), std::move(lease));
    return {*this, use, copy};
  }
  void release(const StateUse& use, const Tensor& tensor) noexcept override {
    const auto found = leases_.find(tensor.raw());
    if (use.access != StateAccess::kRead) {
      set_bytes(found->second.tensor(), bytes_of(tensor).data());
    } else if (!tensor.device().planning) {
      EXPECT_EQ(bytes_of(tensor), bytes_of(found->second.tensor())) << "was only to be read";
    }
    poison(tensor);
    leases_.erase(found);
  }
  void commit(std::int64_t step) override { home_->commit(step); }

 private:
  bool is_pinned(ParamId id) const {
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      if (pins_[b] > 0 && std::find(blocks_[b].begin(), blocks_[b].end(), id) != blocks_[b].end())
        return true;
    }
    return false;
  }
  Arena& arena_;
  std::vector<std::vector<ParamId>> blocks_;
  std::unique_ptr<WeightStore> home_;
  std::vector<int> pins_;
  std::map<ParamId, Tensor> shown_;
  std::multimap<const void*, StateLease> leases_;
};

inline EngineStores hostile_stores(
    const TrainableModel& model,
    std::shared_ptr<HostileRecord> record = std::make_shared<HostileRecord>()) {
  return {.state =
              [record](Arena& arena, const StateTable& table, int rank) {
                return std::make_unique<HostileState>(arena, table, rank, record);
              },
          .weights =
              [blocks = model.block_params()](Arena& arena, const StateTable&, int,
                                              std::unique_ptr<WeightStore> own) {
                return std::make_unique<HostileWeights>(arena, blocks, std::move(own));
              }};
}

}  // namespace thimble
