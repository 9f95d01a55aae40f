#include "parallel/weight_stores.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

Shape rows_shape(const ParamInfo& info, std::int64_t rows) {
  return info.is_matrix() ? Shape{rows, info.storage_shape()[1]} : Shape{rows};
}

// The names of blocks in messages: layers count from 0, what is outside of them has the name of its
// first tensor.
std::string block_name(const ParamTable& params, const std::vector<ParamId>& ids) {
  const ParamInfo& first = params.info(ids.front());
  return first.layer >= 0 ? fmt::format("layer {}", first.layer) : first.name;
}

}  // namespace

Tensor ResidentRowsStore::rows_of(const StateUse& use) {
  const StateEntry& entry = table_[use.id];
  return rows_of_held(entry, rank_, held(entry), use.rows);
}

StateLease ResidentRowsStore::acquire(const StateUse& use) {
  return {*this, use, leases_.lend(use, rows_of(use))};
}

void ResidentRowsStore::release(const StateUse& use, const Tensor& tensor) noexcept {
  leases_.take_back(use, tensor, rows_of(use));
}

ReplicatedStore::ReplicatedStore(Arena& arena, const StoreParts& parts, bool keep_prepacked)
    : ResidentRowsStore(arena, parts.table, parts.comm.rank()),
      resident_(arena, parts.params, parts.dtype, keep_prepacked),
      plan_(parts.plan),
      comm_(parts.comm),
      rows_(parts.comm) {}

Tensor ReplicatedStore::held(const StateEntry& entry) {
  const Slice rows = entry.held_rows(comm_.rank());
  return resident_.writable(entry.param).rows(rows.begin, rows.end);
}

void ReplicatedStore::changed(ParamId id) {
  resident_.changed(id);
  if (plan_.stage() == 0 || comm_.size() == 1) return;  // every rank has written all of it
  rows_.add({resident_.writable(id), plan_.spec(id).rows.bounds()});
}

GatheredStore::GatheredStore(Arena& arena, const StoreParts& parts,
                             std::vector<std::vector<ParamId>> blocks)
    : ResidentRowsStore(arena, parts.table, parts.comm.rank()),
      arena_(arena),
      params_(parts.params),
      plan_(parts.plan),
      comm_(parts.comm),
      dtype_(parts.dtype),
      versions_(static_cast<std::size_t>(parts.params.size())) {
  for (const ParamId id : params_.ids()) {
    const ParamInfo& info = params_.info(id);
    const std::int64_t rows = plan_.spec(id).rows.slice(comm_.rank()).rows();
    shards_.push_back(
        Tensor::empty(arena, MemoryTag::kWeights, dtype_, rows_shape(info, rows), info.name));
  }
  for (auto& ids : blocks) {
    Block block;
    block.ids = std::move(ids);
    blocks_.push_back(std::move(block));
  }
}

// Where it fails, the block is as it was.
void GatheredStore::gather(Block& block) {
  std::vector<Tensor> gathered;
  std::vector<RowParts> parts;
  for (const ParamId id : block.ids) {
    const ParamInfo& info = params_.info(id);
    const Tensor whole =
        Tensor::empty(arena_, MemoryTag::kWeights, dtype_, info.storage_shape(), "gathered weight");
    const Slice rows = plan_.spec(id).rows.slice(comm_.rank());
    if (rows.rows() > 0)
      ops::copy(whole.rows(rows.begin, rows.end), shards_[static_cast<std::size_t>(id)]);
    gathered.push_back(whole);
    parts.push_back({whole, plan_.spec(id).rows.bounds()});
  }
  block.arrival = start_all_gather(comm_, {"all_gather", block_name(params_, block.ids)}, parts);
  block.whole = std::move(gathered);
}

void GatheredStore::drop(Block& block) {
  block.arrival = {};  // waits
  block.whole.clear();
}

void GatheredStore::prefetch(BlockId number) {
  if (number < 0 || number >= static_cast<BlockId>(blocks_.size())) return;
  Block& block = blocks_[static_cast<std::size_t>(number)];
  if (block.whole.empty()) gather(block);
}

void GatheredStore::pin_block(BlockId number) {
  Block& block = blocks_.at(static_cast<std::size_t>(number));
  if (block.pins == 0) {
    if (block.whole.empty()) gather(block);
    try {
      block.arrival.follow();
    } catch (...) {
      drop(block);  // what arrived is not the block
      throw;
    }
  }
  ++block.pins;  // last: who could not pin does not unpin
}

void GatheredStore::unpin_block(BlockId number) {
  Block& block = blocks_.at(static_cast<std::size_t>(number));
  TH_CHECK(block.pins > 0, "block {} is not pinned", number);
  if (--block.pins == 0) block.whole.clear();
}

// What was gathered ahead for a micro-batch that an error has ended shows the rows before the
// change.
void GatheredStore::changed(ParamId id) {
  ++versions_.at(static_cast<std::size_t>(id));
  for (Block& block : blocks_) {
    const bool holds = std::find(block.ids.begin(), block.ids.end(), id) != block.ids.end();
    if (holds && block.pins == 0 && !block.whole.empty()) drop(block);
  }
}

Tensor GatheredStore::view(ParamId id) {
  for (const Block& block : blocks_) {
    if (block.pins == 0) continue;
    const auto found = std::find(block.ids.begin(), block.ids.end(), id);
    if (found != block.ids.end())
      return block.whole[static_cast<std::size_t>(found - block.ids.begin())];
  }
  throw LogicError(fmt::format("{} is not pinned", params_.info(id).name));
}

}  // namespace thimble
