#include "offload/offloaded_weights.h"

#include <algorithm>
#include <cstring>

#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr std::int64_t kDiskBlock = SlotDisk::kBlock;
// From here on memory begins with a block, and transfers go past the page cache.
constexpr std::int64_t kLeastDirect = 64 * kKiB;

// Memory for a tensor of which a range is read from disk.
Tensor with_room(Arena& arena, MemoryTag tag, std::int64_t bytes) {
  return Tensor::empty(arena, tag, DType::kU8,
                       Shape{bytes < kLeastDirect ? bytes : bytes + 2 * kDiskBlock},
                       "weights from the disk");
}

bool has_room(const Tensor& memory) {
  return memory.nbytes() >= kLeastDirect;
}

// Where in it the tensor begins whose part at `begin` has the range's bytes, so that these lie in
// their block as they do on disk.
std::int64_t offset_in(const Tensor& memory, std::int64_t begin, std::int64_t lead) {
  if (!has_room(memory)) return 0;
  return ((lead - begin) % kDiskBlock + kDiskBlock) % kDiskBlock;  // the arena gives whole blocks
}

}  // namespace

// The rows of one weight on their way.
struct OffloadedWeights::RowsUnderWay {
  KeyRange range;
  Tensor read;            // by the host
  Tensor values;          // in the weight's dtype; undefined: they have it
  Tensor rows;            // of the whole weight; undefined: they are read there
  bool has_room = false;  // around what is read
  bool is_here = false;   // it was in memory
  std::vector<Completion> io{};
};

// Those of some weights.
class OffloadedWeights::ShownRows final : public Completion::Work {
 public:
  ShownRows(std::shared_ptr<OffloadHome> home, std::vector<RowsUnderWay> parts)
      : home_(std::move(home)), parts_(std::move(parts)) {}
  void wait() override {
    std::vector<Completion> all;
    for (RowsUnderWay& part : parts_)
      std::move(part.io.begin(), part.io.end(), std::back_inserter(all));
    wait_all(all);
    for (const RowsUnderWay& part : parts_) arrive(part);
  }
  bool done() noexcept override {
    return std::all_of(parts_.begin(), parts_.end(), [](const RowsUnderWay& part) {
      return std::all_of(part.io.begin(), part.io.end(),
                         [](const Completion& one) { return one.done(); });
    });
  }

 private:
  void arrive(const RowsUnderWay& part) {
    if (home_->disk() != nullptr && !part.is_here)
      home_->disk()->check_read(part.range, static_cast<std::byte*>(part.read.raw()));
    if (part.values.defined()) ops::cast(part.values, part.read);
    const Tensor& here = part.values.defined() ? part.values : part.read;
    if (part.rows.defined() && part.rows.raw() != here.raw()) ops::from_host(part.rows, here.raw());
  }
  std::shared_ptr<OffloadHome> home_;
  std::vector<RowsUnderWay> parts_;
};

OffloadedWeights::OffloadedWeights(std::shared_ptr<OffloadHome> home)
    : shared_home_(std::move(home)), home_(*shared_home_) {
  home_.create_weights();
}

// What is on disk of a weight: itself, or its master.
const StateEntry& OffloadedWeights::source_of(const StateEntry& weight) const {
  return OffloadHome::is_on_disk(weight) ? weight
                                         : *home_.table().find(weight.param, StateKind::kMaster);
}

// Memory for a whole weight, and for what comes of it.
OffloadedWeights::RowsUnderWay OffloadedWeights::make_room(const StateEntry& weight,
                                                           Tensor& whole) const {
  Arena& arena = home_.arena();
  const StateEntry& source = source_of(weight);
  const Slice rows = weight.held_rows(home_.rank());
  const Shape& shape = home_.table().params().info(weight.param).storage_shape();
  RowsUnderWay coming{.range = home_.range_of(source, rows), .read = {}, .values = {}, .rows = {}};
  const std::int64_t lead = home_.disk() == nullptr ? 0 : home_.disk()->lead(coming.range);
  if (arena.is_on_cpu() && &source == &weight) {
    const Tensor memory = with_room(arena, MemoryTag::kWeights, weight.bytes());
    whole =
        memory.part(offset_in(memory, weight.range(rows).begin, lead), weight.slot.dtype, shape);
    coming.read = whole.rows(rows.begin, rows.end);
    coming.has_room = has_room(memory);
    return coming;
  }
  whole =
      Tensor::empty(arena, MemoryTag::kWeights, weight.slot.dtype, shape, "weights from the disk");
  coming.rows = whole.rows(rows.begin, rows.end);
  const Tensor memory = with_room(arena.pinned(), MemoryTag::kIo, coming.range.bytes());
  const Shape own = weight.slot.piece(rows);
  coming.read = memory.part(offset_in(memory, 0, lead), source.slot.dtype, own);
  coming.has_room = has_room(memory);
  if (&source == &weight) return coming;
  coming.values = arena.is_on_cpu()
                      ? coming.rows
                      : Tensor::empty(arena.pinned(), MemoryTag::kIo, weight.slot.dtype, own,
                                      "weights from the disk");
  return coming;
}

WeightRows::Whole OffloadedWeights::start_show(std::span<const ParamId> ids) {
  Whole shown;
  std::vector<RowsUnderWay> parts;
  for (const ParamId id : ids) {
    const StateEntry& weight = *home_.table().find(id, StateKind::kWeight);
    RowsUnderWay& part = parts.emplace_back(make_room(weight, shown.tensors.emplace_back()));
    part.is_here = state_->is_cached(source_of(weight).id);
    if (home_.disk() == nullptr) {
      if (!part.is_here) home_.plan_read(part.range.bytes());
      continue;
    }
    auto* const at = static_cast<std::byte*>(part.read.raw());
    if (part.is_here) {
      const StateUse use{.id = source_of(weight).id, .rows = weight.held_rows(home_.rank())};
      std::memcpy(at, state_->cached(use), static_cast<std::size_t>(part.range.bytes()));
      continue;
    }
    state_->finish_writes(part.range);
    part.io = part.has_room ? home_.disk()->start_read(part.range, at)
                            : home_.disk()->start_exact_read(part.range, at);
  }
  shown.rows = Completion(std::make_unique<ShownRows>(shared_home_, std::move(parts)));
  return shown;
}

StateLease OffloadedWeights::acquire(const StateUse& use) {
  const StateEntry& weight = home_.table()[use.id];
  if (OffloadHome::is_on_disk(weight)) return state_->acquire(use);
  Arena& arena = use.on_cpu ? home_.arena().pinned() : home_.arena();
  const Tensor values = Tensor::empty(arena, weight.tag, weight.slot.dtype,
                                      weight.slot.piece(use.rows), "weights from the master");
  if (use.access == StateAccess::kRead) {
    const StateLease master = state_->acquire(
        {source_of(weight).id, use.rows, StateAccess::kRead, use.on_cpu, use.times});
    ops::cast(values, master.tensor());
  }
  return {*this, use, values};
}

}  // namespace thimble
