// SPDX-License-Identifier: GPL-2.0

//! MSI-X vectors with their handlers.

use kernel::{
    device::Bound,
    irq,
    pci,
    prelude::*, //
};

/// Handles one interrupt vector.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Called in hard interrupt context: no sleeping, no locks that are taken with interrupts on.
    fn handle(&self) -> irq::IrqReturn;
}

/// Makes a [`Handler`] one of `kernel::irq`.
struct Adapter<H>(H);

#[cfg(mirage_irq_owned)]
impl<H: Handler> irq::Handler for Adapter<H> {
    fn handle(&self) -> irq::IrqReturn {
        self.0.handle()
    }
}
#[cfg(not(mirage_irq_owned))]
impl<H: Handler> irq::Handler for Adapter<H> {
    fn handle(&self, _dev: &kernel::device::Device<Bound>) -> irq::IrqReturn {
        self.0.handle()
    }
}

#[cfg(mirage_irq_owned)]
type Registration<'bound, H> = irq::Registration<'bound, Adapter<H>>;
#[cfg(not(mirage_irq_owned))]
type Registration<'bound, H> = irq::Registration<Adapter<H>>;

/// The first two MSI-X vectors of a device and their handlers. Dropping it waits for handlers that run.
///
/// Two, because that is how many the older `kernel::pci` can name: the first and the last of an allocation.
pub(crate) struct VectorPair<'bound, H: Handler> {
    // Dropped in this order: the handlers go before the vectors.
    _handlers: [Pin<KBox<Registration<'bound, H>>>; 2],
    #[cfg(mirage_irq_owned)]
    _vectors: KBox<pci::IrqVectorRegistration<'bound>>,
    #[cfg(not(mirage_irq_owned))]
    _device: core::marker::PhantomData<&'bound pci::Device<Bound>>,
}

impl<'bound, H: Handler> VectorPair<'bound, H> {
    /// Allocates the vectors and registers `handlers`; they may be called before this returns.
    pub(crate) fn request(
        pdev: &'bound pci::Device<Bound>,
        name: &'static CStr,
        handlers: [H; 2],
    ) -> Result<Self> {
        let msix = pci::IrqTypes::default().with(pci::IrqType::MsiX);
        let vectors = pdev.alloc_irq_vectors(2, 2, msix)?;
        let [first, last] = handlers;

        #[cfg(mirage_irq_owned)]
        return Self::register(KBox::new(vectors, GFP_KERNEL)?, name, first, last);

        #[cfg(not(mirage_irq_owned))]
        Ok(Self {
            _handlers: [
                Self::register(*vectors.start(), name, first)?,
                Self::register(*vectors.end(), name, last)?,
            ],
            _device: core::marker::PhantomData,
        })
    }

    #[cfg(not(mirage_irq_owned))]
    fn register(
        vector: pci::IrqVector<'bound>,
        name: &'static CStr,
        handler: H,
    ) -> Result<Pin<KBox<Registration<'bound, H>>>> {
        let request = vector.try_into()?;
        let handler = Ok(Adapter(handler));
        let registration = irq::Registration::new(request, irq::Flags::TRIGGER_NONE, name, handler);
        KBox::pin_init(registration, GFP_KERNEL)
    }

    #[cfg(mirage_irq_owned)]
    fn register(
        vectors: KBox<pci::IrqVectorRegistration<'bound>>,
        name: &'static CStr,
        first: H,
        last: H,
    ) -> Result<Self> {
        let register = |index, handler| {
            // SAFETY: The box does not move its contents, and `Self` drops it after the handlers, which alone use the
            // reference.
            let vectors: &'bound pci::IrqVectorRegistration<'bound> =
                unsafe { &*core::ptr::from_ref(&*vectors) };
            let request = vectors.index(index)?.into();
            let handler = Ok(Adapter(handler));
            // SAFETY: The registration is dropped with `Self`, which this driver does not forget.
            let registration =
                unsafe { irq::Registration::new(request, irq::Flags::TRIGGER_NONE, name, handler) };
            KBox::pin_init(registration, GFP_KERNEL)
        };
        let handlers = [register(0, first)?, register(1, last)?];
        Ok(Self {
            _handlers: handlers,
            _vectors: vectors,
        })
    }
}
