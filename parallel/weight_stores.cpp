#include "parallel/weight_stores.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

// The names of blocks in messages: layers count from 0, what is outside of them has the name of its
// first tensor.
std::string block_name(const ParamTable& params, const std::vector<ParamId>& ids) {
  const ParamInfo& first = params.info(ids.front());
  return first.layer >= 0 ? fmt::format("layer {}", first.layer) : first.name;
}

}  // namespace

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

GatheredStore::GatheredStore(const StoreParts& parts, std::vector<std::vector<ParamId>> blocks,
                             std::unique_ptr<WeightRows> rows)
    : params_(parts.params),
      table_(parts.table),
      plan_(parts.plan),
      comm_(parts.comm),
      rows_(std::move(rows)),
      versions_(static_cast<std::size_t>(parts.params.size())),
      blocks_of_(versions_.size()) {
  for (auto& ids : blocks) {
    for (const ParamId id : ids) blocks_of_[static_cast<std::size_t>(id)].push_back(blocks_.size());
    Block block;
    block.ids = std::move(ids);
    blocks_.push_back(std::move(block));
  }
}

// Where it fails, the block is as it was.
void GatheredStore::bring(Block& block) {
  block.whole = rows_->start_show(block.ids);
  if (!rows_->are_at_hand()) return;
  try {
    gather(block);
  } catch (...) {
    drop(block);
    throw;
  }
}

// Rows that had to come are sent on by the pin: when that is must not depend on the time that they
// take, since all ranks start their exchanges in the same order.
void GatheredStore::gather(Block& block) {
  block.whole.rows.wait();
  std::vector<RowParts> parts;
  for (std::size_t i = 0; i < block.ids.size(); ++i)
    parts.push_back({block.whole.tensors[i], plan_.spec(block.ids[i]).rows.bounds()});
  block.arrival = start_all_gather(comm_, {"all_gather", block_name(params_, block.ids)}, parts);
  block.is_gathered = true;
}

void GatheredStore::drop(Block& block) {
  block.arrival = {};  // waits
  block.whole.rows = {};
  block.whole.tensors.clear();
  block.is_gathered = false;
}

void GatheredStore::prefetch(BlockId number) {
  if (number < 0 || number >= static_cast<BlockId>(blocks_.size())) return;
  Block& block = blocks_[static_cast<std::size_t>(number)];
  if (block.whole.tensors.empty()) bring(block);
}

void GatheredStore::pin_block(BlockId number) {
  Block& block = blocks_.at(static_cast<std::size_t>(number));
  if (block.pins == 0) {
    if (block.whole.tensors.empty()) bring(block);
    try {
      if (!block.is_gathered) gather(block);
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
  if (--block.pins == 0) drop(block);
}

// Drops what was brought ahead with rows of a parameter.
void GatheredStore::drop_idle(ParamId with) {
  for (const std::size_t block : blocks_of_.at(static_cast<std::size_t>(with))) {
    if (blocks_[block].is_idle()) drop(blocks_[block]);
  }
}

// What was gathered ahead for a micro-batch that an error has ended shows the rows before the
// change.
void GatheredStore::changed(ParamId id) {
  ++versions_.at(static_cast<std::size_t>(id));
  drop_idle(id);
}

StateLease GatheredStore::acquire(const StateUse& use) {
  // Rows on their way must not change before they are there.
  if (!rows_->are_at_hand() && use.access != StateAccess::kRead) drop_idle(table_[use.id].param);
  return rows_->acquire(use);
}

void GatheredStore::commit(std::int64_t step) {
  if (!rows_->are_at_hand()) {
    for (Block& block : blocks_) {
      if (block.is_idle()) drop(block);  // where rows lie may change by the commit
    }
  }
  rows_->commit(step);
}

Tensor GatheredStore::view(ParamId id) {
  for (const Block& block : blocks_) {
    if (block.pins == 0) continue;
    const auto found = std::find(block.ids.begin(), block.ids.end(), id);
    if (found != block.ids.end())
      return block.whole.tensors[static_cast<std::size_t>(found - block.ids.begin())];
  }
  throw LogicError(fmt::format("{} is not pinned", params_.info(id).name));
}

}  // namespace thimble
