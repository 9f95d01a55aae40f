// Matrix products through oneDNN on the calling thread, with caller-supplied workspace and an
// optional packed layout of B.
#pragma once

#include <cstdint>

#include "core/ops/kernel_table.h"

namespace thimble::onednn {

/// Workspace that matmul() needs for this spec, in bytes.
std::int64_t workspace_bytes(const MatmulSpec& spec);

/// Runs the product on the calling thread. bf16 must be native (has_native_bf16()).
void matmul(const MatmulSpec& spec, const MatmulArgs& args);

/// The layout of B that oneDNN prefers for this product; none if the plain one is as good.
PackedLayout packed_layout(const MatmulSpec& spec);
void pack(const MatmulSpec& spec, const void* b, void* packed);

/// Forbids instruction sets above AVX2 (for THIMBLE_ISA); must be called before anything else here.
void limit_to_avx2();

}  // namespace thimble::onednn
