#include "keeper/parity_store.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"

namespace thimble {

ParityStore::ParityStore(const KeeperWorld& world, const CodeGroup& group)
    : group_(group),
      layout_(world.layout(group)),
      code_(group.shape),
      me_(world.me - group.first_node) {}

const ParityStore::Slot* ParityStore::find(const SnapshotMoment& moment) const {
  const auto found = std::find_if(slots_.begin(), slots_.end(),
                                  [&](const Slot& slot) { return slot.moment == moment; });
  return found == slots_.end() ? nullptr : &*found;
}

ParityStore::Slot* ParityStore::find(const SnapshotMoment& moment) {
  return const_cast<Slot*>(std::as_const(*this).find(moment));
}

// The newest parity that counts stays.
ParityStore::Slot* ParityStore::begin(const SnapshotMoment& moment) {
  for (const Slot& slot : slots_) {
    if (slot.moment.step > moment.step) return nullptr;
  }
  const std::optional<SnapshotMoment> kept = newest();
  Slot& slot = kept && slots_[0].moment == *kept ? slots_[1] : slots_[0];
  slot = Slot{.moment = moment,
              .bytes = std::vector<std::byte>(narrow<std::size_t>(layout_.parity_bytes())),
              .done = std::vector<bool>(narrow<std::size_t>(group_.shape.num_nodes())),
              .crcs = {},
              .counts = false};
  slot.done[narrow<std::size_t>(me_)] = true;
  return &slot;
}

std::span<std::byte> ParityStore::parity_of(Slot& slot, const Stripe& stripe) const {
  const int block = stripe.block_of(me_);
  if (block < group_.shape.data) return {};
  const StripeMember& held = stripe.members[narrow<std::size_t>(block)];
  return std::span(slot.bytes)
      .subspan(narrow<std::size_t>(held.offset), narrow<std::size_t>(stripe.bytes));
}

void ParityStore::add(const SnapshotMoment& moment, int node, std::int64_t stripe,
                      std::span<const std::byte> block) {
  if (stripe < 0 || stripe >= layout_.num_stripes() || node < 0 ||
      node >= group_.shape.num_nodes() || node == me_)
    throw_system("there is no stripe {} of node {}", stripe, node);
  Slot* slot = find(moment);
  if (slot == nullptr) slot = begin(moment);
  if (slot == nullptr || slot->counts) return;
  const Stripe of = layout_.stripe(stripe);
  const int source = of.block_of(node), own = of.block_of(me_);
  const std::span<std::byte> into = parity_of(*slot, of);
  if (source >= group_.shape.data || own < group_.shape.data || block.size() > into.size() ||
      slot->done[narrow<std::size_t>(node)])
    throw_system("node {} has no block of stripe {} for this one", node, stripe);
  code_.encoder().add(source, block, own - group_.shape.data, into);
}

bool ParityStore::note_done(const SnapshotMoment& moment, int node) {
  if (node < 0 || node >= group_.shape.num_nodes()) throw_system("there is no node {}", node);
  Slot* slot = find(moment);
  if (slot == nullptr) slot = begin(moment);
  if (slot == nullptr || slot->counts) return false;
  slot->done[narrow<std::size_t>(node)] = true;
  if (std::find(slot->done.begin(), slot->done.end(), false) != slot->done.end()) return false;
  for (std::int64_t i = 0; i < layout_.num_stripes(); ++i)
    slot->crcs.push_back(crc32c(parity_of(*slot, layout_.stripe(i))));
  slot->counts = true;
  return true;
}

std::optional<std::span<const std::byte>> ParityStore::block(const SnapshotMoment& moment,
                                                             std::int64_t stripe) const {
  const Slot* slot = find(moment);
  if (slot == nullptr || !slot->counts || stripe < 0 || stripe >= layout_.num_stripes())
    return std::nullopt;
  const std::span<const std::byte> found =
      parity_of(const_cast<Slot&>(*slot), layout_.stripe(stripe));
  if (found.empty() || crc32c(found) != slot->crcs[narrow<std::size_t>(stripe)])
    return std::nullopt;
  return found;
}

std::optional<SnapshotMoment> ParityStore::newest() const {
  std::optional<SnapshotMoment> found;
  for (const Slot& slot : slots_) {
    if (slot.counts && (!found || slot.moment.step > found->step)) found = slot.moment;
  }
  return found;
}

}  // namespace thimble
