// Matrix products through oneDNN, with caller-supplied workspace and an optional packed layout of
// B.
#pragma once

#include <cstdint>

#include "core/ops/kernel_table.h"

namespace thimble::onednn {

/// Whether the product uses this thread's whole OpenMP team or the calling thread alone, as it must
/// inside a parallel loop.
enum class Team : std::uint8_t { kWhole, kSingleThread };

/// Workspace that matmul() needs for this spec, in bytes.
std::int64_t workspace_bytes(const MatmulSpec& spec, Team team);

/// Runs the product on the calling thread (kSingleThread) or its team. bf16 must be native
/// (has_native_bf16()).
void matmul(const MatmulSpec& spec, const MatmulArgs& args, Team team);

/// The layout of B that oneDNN prefers for this product; none if the plain one is as good.
PackedLayout packed_layout(const MatmulSpec& spec);
void pack(const MatmulSpec& spec, const void* b, void* packed);

/// Forbids instruction sets above AVX2 (for THIMBLE_ISA); must be called before anything else here.
void limit_to_avx2();

}  // namespace thimble::onednn
